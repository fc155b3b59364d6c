"""multiprocessing over TCP: objects of a server, used by a pool of processes. usage: pool.py server|client PORT"""
import hashlib
import multiprocessing
import sys
from multiprocessing.connection import Client, Listener
from multiprocessing.managers import BaseManager

ADDRESS, KEY = ("127.0.0.1", int(sys.argv[2])), b"key"


class Board:
    def __init__(self):
        self.seen = {}

    def put(self, key, value):
        self.seen[key] = value
        return len(value)

    def get(self, key):
        return self.seen[key]

    def sums(self):
        return sorted((key, hashlib.sha256(value).hexdigest()) for key, value in self.seen.items())


BOARD = Board()


class Manager(BaseManager):
    pass


Manager.register("board", callable=lambda: BOARD)


def connected():
    manager = Manager(ADDRESS, authkey=KEY)
    manager.connect()
    return manager.board()


def work(number):
    board, answers = connected(), []
    for at in range(20):
        value = bytes([number + at]) * (1 + at * 5000)
        answers.append(board.put((number, at), value))
        assert board.get((number, at)) == value
    return answers


if __name__ == "__main__":
    if sys.argv[1] == "server":
        Manager(ADDRESS, authkey=KEY).get_server().serve_forever()
    else:
        with multiprocessing.get_context("fork").Pool(4) as pool:
            print(pool.map(work, range(8)))
        print(hashlib.sha256(repr(connected().sums()).encode()).hexdigest())
