"""A pipelined load on redis over several connections: random-size values (1 B to 4 MiB), every reply checked by content.

usage: redis_load.py PORT SEED MEBIBYTES [ADDRESS]
"""
import random
import socket
import sys
import threading

from load import each_connection

PORT, SEED, TOTAL = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) << 20
ADDRESS = sys.argv[4] if len(sys.argv) > 4 else "127.0.0.1"
NOISE = random.Random(SEED).randbytes(8 << 20)
CONNECTIONS = 4


def value(dice):
    size = min(1 + int(2 ** dice.uniform(0, 22)), 4 << 20)
    start = dice.randrange(len(NOISE) - size)
    return NOISE[start:start + size]


def command(*parts):
    out = [b"*%d\r\n" % len(parts)]
    for part in parts:
        part = part if isinstance(part, bytes) else str(part).encode()
        out += [b"$%d\r\n" % len(part), part, b"\r\n"]
    return b"".join(out)


class Replies:
    def __init__(self, sock):
        self.sock, self.buffer = sock, bytearray()

    def need(self, count):
        while len(self.buffer) < count:
            data = self.sock.recv(1 << 18)
            if not data:
                raise EOFError("connection closed")
            self.buffer += data

    def line(self):
        while (end := self.buffer.find(b"\r\n")) < 0:
            self.need(len(self.buffer) + 1)
        line = bytes(self.buffer[:end])
        del self.buffer[:end + 2]
        return line

    def next(self):
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            self.need(size + 2)
            data = bytes(self.buffer[:size])
            assert self.buffer[size:size + 2] == b"\r\n", "no line end after a value"
            del self.buffer[:size + 2]
            return data
        if kind == b":":
            return int(rest)
        return line


def run(number):
    dice = random.Random(SEED * 1000 + number)
    model, done, checked = {}, 0, 0
    with socket.create_connection((ADDRESS, PORT)) as sock:
        replies = Replies(sock)
        while done < TOTAL // CONNECTIONS:
            out, expected, size = [], [], 0
            for _ in range(dice.randint(1, 16)):
                key = f"{number}:{dice.randrange(50)}"
                what = dice.random()
                if what < 0.45:
                    model[key] = value(dice)
                    out.append(command("SET", key, model[key]))
                    expected.append(b"+OK")
                    size += len(model[key])
                elif what < 0.85:
                    out.append(command("GET", key))
                    expected.append(model.get(key))
                    size += len(model.get(key) or b"")
                elif what < 0.95:
                    out.append(command("STRLEN", key))
                    expected.append(len(model.get(key, b"")))
                else:
                    out.append(command("ECHO", key))
                    expected.append(key.encode())
                if size > 6 << 20:
                    break
            request = b"".join(out)
            # A pipelining client reads while it writes, or both ends would wait for ever on large values.
            writer = threading.Thread(target=sock.sendall, args=(request,))
            writer.start()
            for at, wanted in enumerate(expected):
                got = replies.next()
                if got != wanted:
                    raise AssertionError(f"connection {number}, reply {at}: wrong ({len(got or b'')} bytes)"
                                         if isinstance(got, bytes) else f"connection {number}, reply {at}: {got!r}")
                checked += 1
            writer.join()
            done += size
        if replies.buffer:
            raise AssertionError("bytes after the last reply")
    return checked, done


each_connection(CONNECTIONS, run, "replies")
