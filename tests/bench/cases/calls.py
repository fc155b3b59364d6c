"""Single calls in one thread: what is only passed on, and a carried connection when nobody ever waits."""

from functools import partial

from harness.case import Case, Metric, at_most

from .own import Alone


def cases():
    kinds = {
        "file": "a device file (write, read)",
        "pipe": "a pipe (write, read)",
        "unix": "a pair of unix sockets (send, recv)",
        "tcp": "a TCP connection kept on TCP (send, recv)",
        "poll": "a TCP connection kept on TCP (poll)",
    }
    for kind, words in kinds.items():
        yield Case(
            key=f"pass-through: {words}",
            group="Single calls",
            load=partial(Alone, words=("calls", kind), environment={"TANDEM_ATTACH": "off"}, core=True),
            metrics=(nanoseconds(at_most(1 / 0.98)),),
            carried=False,
            seconds=0.3,
            turns=2,
            quick=kind in ("pipe", "tcp"),
        )
    yield Case(
        key="carried: send and recv of 64 B in one thread",
        group="Single calls",
        load=partial(Alone, words=("calls", "tcp"), core=True),
        metrics=(nanoseconds(),),
        seconds=0.3,
        quick=True,
    )


def nanoseconds(*goals):
    return Metric("nanoseconds", "", "ns a call", False, tuple(goals))
