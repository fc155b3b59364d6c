"""Many at once: an event loop that watches all connections and serves few, threads asleep on one each, more processes
than cores."""

from functools import partial

from harness.case import Case, Load, at_least, at_most, rate, times

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
    yield Case(
        key="8 processes: 4 pairs, 64 B round trips",
        group="Many connections",
        load=partial(Crowd, pairs=4),
        metrics=(rate("round trips/s", at_least(0.98)),),
        seconds=1.0,
    )


class Crowd(Load):
    """Pairs of a server and a client each, all at once: who spins here takes the core from who has work."""

    def __init__(self, field, way, pairs):
        super().__init__(field, way)
        self._pairs = [Own(field, way, ("round-trips",), steady=True) for _ in range(pairs)]

    def start(self):
        for pair in self._pairs:
            pair.start()

    def run(self, seconds):
        for pair in self._pairs:
            pair.begin(seconds)
        told = [pair.end_of_run(seconds) for pair in self._pairs]
        return {name: sum(one[name] for one in told) for name in ("rate", "bytes")}

    def close(self):
        for pair in self._pairs:
            pair.close()


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
