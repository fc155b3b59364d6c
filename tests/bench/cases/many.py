"""Many connections: an event loop that watches all and serves few, and threads asleep on one each."""

from functools import partial

from harness.case import Case, at_least, at_most, rate, times

from .own import Own

EPOLL = ("--wait", "epoll-lt")


def cases():
    yield watched(10, 10)
    yield watched(1000, 16, at_least(4), quick=True)
    yield watched(8000, 10, at_least(0.9, of=key(10, 10)))
    yield watched(8000, 64, at_least(4))
    yield Case(
        key="200 blocked threads, a random one spoken to",
        group="Many connections",
        load=partial(Own, client=("round-trips", "--connections", 200), steady=True),
        metrics=times((at_most(0.6),)),
        quick=True,
    )


def key(connections, active):
    return f"{connections:,} connections in epoll, {active} active"


def watched(connections, active, *goals, quick=False):
    words = ("round-trips", *EPOLL, "--connections", connections, "--active", active)
    return Case(
        key=key(connections, active),
        group="Many connections",
        load=partial(Own, client=words, server=EPOLL, steady=True),
        metrics=(rate("round trips/s", *goals),),
        seconds=1.0,
        quick=quick,
    )
