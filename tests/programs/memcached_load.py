"""Sets and pipelined gets on memcached over several connections, every value checked.

usage: memcached_load.py PORT SEED MEBIBYTES [ADDRESS]
"""
import random
import socket
import sys

from load import each_connection

PORT, SEED, TOTAL = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) << 20
ADDRESS = sys.argv[4] if len(sys.argv) > 4 else "127.0.0.1"
NOISE = random.Random(SEED).randbytes(4 << 20)
CONNECTIONS = 6


def run(number):
    dice = random.Random(SEED * 1000 + number)
    model, done, checked = {}, 0, 0
    with socket.create_connection((ADDRESS, PORT)) as sock, sock.makefile("rwb") as stream:
        while done < TOTAL // CONNECTIONS:
            key = f"{number}:{dice.randrange(20)}"
            if dice.random() < 0.4:
                size = min(1 + int(2 ** dice.uniform(0, 20)), 1 << 20)
                start = dice.randrange(len(NOISE) - size)
                model[key] = NOISE[start:start + size]
                stream.write(f"set {key} 3 0 {size}\r\n".encode() + model[key] + b"\r\n")
                stream.flush()
                answer = stream.readline()
                assert answer == b"STORED\r\n", answer
                done += size
            else:
                keys = [f"{number}:{dice.randrange(20)}" for _ in range(dice.randint(1, 5))]
                for wanted in keys:
                    stream.write(f"get {wanted}\r\n".encode())
                stream.flush()
                for wanted in keys:
                    line = stream.readline()
                    if line != b"END\r\n":
                        word, name, flags, size = line.split()
                        assert (word, name, flags) == (b"VALUE", wanted.encode(), b"3"), line
                        data = stream.read(int(size) + 2)
                        assert data[-2:] == b"\r\n" and data[:-2] == model[wanted], f"wrong value of {wanted}"
                        assert stream.readline() == b"END\r\n"
                        done += int(size)
                    else:
                        assert wanted not in model, f"{wanted} is gone"
                    checked += 1
        stream.write(b"quit\r\n")
        stream.flush()
        assert stream.read() == b"", "bytes after quit"
    return checked, done


each_connection(CONNECTIONS, run, "values")
