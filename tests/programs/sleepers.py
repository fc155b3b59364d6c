"""Connections to redis that are warm, then asleep: in recv (a thread each), poll or epoll. Told by a file, the main thread
sends once more on each, so that every sleeper has its answer to read.

usage: sleepers.py PORT recv|poll|epoll COUNT FILE
"""
import os
import select
import socket
import sys
import threading
import time

PORT, MANNER, COUNT, FILE = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
PONG = b"+PONG\r\n"
socks = [socket.create_connection(("127.0.0.1", PORT)) for _ in range(COUNT)]
answers = []


def exchange(sock):
    sock.sendall(b"PING\r\n")
    assert sock.recv(100) == PONG


def sleep_in_recv(sock):
    answers.append(sock.recv(100))


def sleep_in_poll():
    poller = select.poll() if MANNER == "poll" else select.epoll()
    by_number = {sock.fileno(): sock for sock in socks}
    for number in by_number:
        poller.register(number, select.POLLIN if MANNER == "poll" else select.EPOLLIN)
    while len(answers) < COUNT:
        for number, _ in poller.poll():
            answers.append(by_number[number].recv(100))


for _ in range(8):
    for sock in socks:
        exchange(sock)
    # policyd needs a moment to bring the ends together, and they one more call to switch over.
    time.sleep(0.02)
if MANNER == "recv":
    threads = [threading.Thread(target=sleep_in_recv, args=(sock,)) for sock in socks]
else:
    threads = [threading.Thread(target=sleep_in_poll)]
for thread in threads:
    thread.start()
while not os.path.exists(FILE):
    time.sleep(0.02)
for sock in socks:
    sock.sendall(b"PING\r\n")
for thread in threads:
    thread.join()
for sock in socks:
    exchange(sock)
print(MANNER, len(answers), set(answers) == {PONG})
