"""gevent: an echo by greenlets, the standard library patched. usage: greenlets.py server|client PORT"""
from gevent import monkey

monkey.patch_all()

import random
import signal
import socket
import sys

import gevent
from gevent.server import StreamServer

PORT = int(sys.argv[2])


def echo(sock, _):
    while data := sock.recv(1 << 16):
        sock.sendall(data)
    sock.close()


def talk(number):
    dice = random.Random(number)
    with socket.create_connection(("127.0.0.1", PORT)) as sock:
        for _ in range(40):
            data = dice.randbytes(1 + int(2 ** dice.uniform(0, 17)))
            writer = gevent.spawn(sock.sendall, data)
            got = b""
            while len(got) < len(data):
                got += sock.recv(1 << 16)
            assert got == data
            writer.join()
        sock.shutdown(socket.SHUT_WR)
        return len(sock.recv(1))


if sys.argv[1] == "server":
    server = StreamServer(("127.0.0.1", PORT), echo)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    server.serve_forever()
else:
    print([greenlet.get() for greenlet in [gevent.spawn(talk, number) for number in range(12)]])
