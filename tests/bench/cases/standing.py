"""What is there while nothing happens: memory, CPU in silence, and the start of a program."""

import time
from functools import partial
from pathlib import Path

from harness.case import Case, Load, Metric, at_most
from harness.processes import Failed

from .own import Alone, Own

EPOLL = ("--wait", "epoll-lt")
GROUP = "Standing still"


def cases():
    for connections in (10, 1000, 8000):
        yield Case(
            key=f"memory a connection, of {connections:,}",
            group=GROUP,
            load=partial(Memory, connections=connections),
            metrics=(Metric("kilobytes", "", "kB", False),),
            carried=None,
            at_most_rounds=2,
        )
    yield Case(
        key="silence, 100 connections",
        group=GROUP,
        load=partial(Silence, connections=100),
        metrics=(
            Metric("cpu", "CPU", "ms/s", False, (at_most(0.05, of="more"),)),
            Metric("switches", "context switches", "/s", False, (at_most(0.5, of="more"),)),
        ),
        carried=None,
        at_most_rounds=2,
    )
    yield Case(
        key="start and end of /bin/true",
        group=GROUP,
        load=Start,
        metrics=(Metric("p50", "", "µs", False, (at_most(2000, of="more"),)),),
        carried=False,
        quick=True,
    )


class Memory(Load):
    """Both ends' and policyd's memory and page tables, with N connections less with one, by N − 1.

    Memory that several map counts once. The kernel's own for a socket is the same natively, and not counted.
    """

    def __init__(self, field, way, connections):
        super().__init__(field, way)
        self._connections = connections

    def run(self, seconds):
        one, many = self._with(1), self._with(self._connections)
        return {"kilobytes": (many - one) / (self._connections - 1)}

    def _with(self, connections):
        # As many at a time as there are, so that every one's buffers have been used.
        client = ("round-trips", *EPOLL, "--connections", connections, "--active", connections)
        load = Own(self.field, self.way, client, server=EPOLL, steady=True)
        try:
            load.start()
            load.run(0.2)
            return sum(kilobytes(process.pid) for process in load.processes())
        finally:
            load.close()


class Silence(Own):
    """CPU time and context switches of both ends and policyd while nobody says a word."""

    SECONDS = 5

    def __init__(self, field, way, connections):
        client = ("round-trips", *EPOLL, "--connections", connections, "--active", connections)
        super().__init__(field, way, client, server=EPOLL, steady=True)

    def run(self, seconds):
        # Whatever the last exchange has left to do is over.
        time.sleep(1)
        before = [work(process.pid) for process in self.processes()]
        time.sleep(self.SECONDS)
        after = [work(process.pid) for process in self.processes()]
        cpu, switches = (sum(b[at] - a[at] for a, b in zip(before, after)) / self.SECONDS for at in (0, 1))
        return {"cpu": cpu / 1e6, "switches": switches}


class Start(Alone):
    """The starting program runs natively; what it starts is preloaded."""

    def __init__(self, field, way):
        preload = ("--preload", way.library) if way.library else ()
        super().__init__(field, way, ("spawn", *preload), environment={"LD_PRELOAD": ""})


def kilobytes(pid):
    rollup = fields(Path(f"/proc/{pid}/smaps_rollup"))
    return rollup["Pss"] + fields(Path(f"/proc/{pid}/status"))["VmPTE"]


def work(pid):
    """Nanoseconds on a core, and context switches, of all threads."""
    nanoseconds = switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        nanoseconds += int((task / "schedstat").read_text().split()[0])
        status = fields(task / "status")
        switches += status["voluntary_ctxt_switches"] + status["nonvoluntary_ctxt_switches"]
    return nanoseconds, switches


def fields(path):
    """The numbers of a file of `name: number unit` lines."""
    numbers = {}
    try:
        for line in path.read_text().splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            if words and words[0].isdigit():
                numbers[name] = int(words[0])
    except OSError as error:
        raise Failed(f"{path}: {error}") from None
    return numbers
