"""A line protocol on socketserver: sums, blocks of bytes, a late goodbye. usage: lines.py Threading|Forking|client PORT"""
import hashlib
import random
import signal
import socket
import socketserver
import sys
import threading

ROLE, PORT = sys.argv[1], int(sys.argv[2])


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        total = 0
        for line in self.rfile:
            word, number = line.split()
            if word == b"add":
                total += int(number)
                self.wfile.write(b"%d\n" % total)
            elif word == b"give":
                self.wfile.write(random.Random(int(number)).randbytes(int(number)))
            elif word == b"take":
                self.wfile.write(hashlib.sha256(self.rfile.read(int(number))).hexdigest().encode() + b"\n")
        # Its other half is still open.
        self.wfile.write(b"goodbye %d\n" % total)


def serve():
    class Server(getattr(socketserver, f"{ROLE}TCPServer")):
        allow_reuse_address = True
        daemon_threads = True

    server = Server(("127.0.0.1", PORT), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.05)


def talk(number, said):
    dice = random.Random(number)
    with socket.create_connection(("127.0.0.1", PORT), timeout=60) as sock, sock.makefile("rwb") as stream:
        total = 0
        for _ in range(150):
            value = dice.randrange(1000)
            total += value
            stream.write(b"add %d\n" % value)
            stream.flush()
            assert stream.readline() == b"%d\n" % total
        for _ in range(5):
            size = dice.randrange(1, 300000)
            stream.write(b"give %d\n" % size)
            stream.flush()
            assert stream.read(size) == random.Random(size).randbytes(size)
            data = dice.randbytes(size)
            stream.write(b"take %d\n" % size + data)
            stream.flush()
            assert stream.readline().strip() == hashlib.sha256(data).hexdigest().encode()
        sock.shutdown(socket.SHUT_WR)
        said[number] = stream.read()


if ROLE == "client":
    answers = {}
    threads = [threading.Thread(target=talk, args=(number, answers)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in sorted(answers):
        print(number, answers[number])
else:
    serve()
