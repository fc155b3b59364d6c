"""What a case is: a load, what it tells, what must be reached, and how near the machine's limit that is."""

from dataclasses import dataclass, field
from typing import Callable


class Load:
    """Programs under one way. `start`, then `run(seconds)` any number of times, then `close`, whatever happened.

    `run` returns what was measured by name, and under "bytes" what the programs themselves sent, for the witness.
    """

    def __init__(self, field_, way):
        self.field, self.way = field_, way
        self._processes = []

    def start(self):
        pass

    def run(self, seconds):
        raise NotImplementedError

    def spawn(self, *words, **options):
        process = self.way.process(*words, **options)
        self._processes.append(process)
        return process

    def end(self, process):
        self._processes.remove(process)
        process.close()

    def close(self):
        while self._processes:
            self._processes.pop().close()


@dataclass(frozen=True)
class Goal:
    """`of`: "native" (the ratio), "limit" (tandem / limit), "self" (the figure itself), "more" (tandem − native), or
    another case's key (tandem / that case's tandem)."""

    sign: str  # ">=" or "<="
    value: float
    of: str = "native"

    def holds(self, figure):
        return figure >= self.value if self.sign == ">=" else figure <= self.value

    def text(self):
        sign = {">=": "≥", "<=": "≤"}[self.sign]
        meanings = {"native": "×", "limit": " × limit", "self": "", "more": " more"}
        meaning = meanings.get(self.of, f" × “{self.of}”")
        return f"{sign} {self.value:.3g}{meaning}"


@dataclass(frozen=True)
class Metric:
    name: str  # as the load tells it
    label: str
    unit: str
    more_is_better: bool
    goals: tuple[Goal, ...] = ()
    factor: float = 1.0


def rate(unit, *goals, name="rate", factor=1.0):
    return Metric(name, "", unit, True, goals, factor)


def times(p50=(), p99=(), p999=()):
    """The three quantiles of a latency in µs."""
    goals = {"p50": p50, "p99": p99, "p99.9": p999}
    return tuple(Metric(name, name, "µs", False, tuple(goals[name])) for name in goals)


@dataclass
class Case:
    key: str
    group: str
    load: Callable  # of the field and a way: a Load
    metrics: tuple[Metric, ...]
    limits: dict[str, Callable] = field(default_factory=dict)  # by name
    carried: bool | None = True  # None: it may be carried or not
    seconds: float = 0.6
    at_most_rounds: int | None = None
    turns: int = 1  # measurements of each way in a round, in the order A B B A
    quick: bool = False
    as_user: bool = False  # not as root

    def rows(self):
        """Each metric with its key in tables and files."""
        for metric in self.metrics:
            yield (f"{self.key}, {metric.label}" if metric.label else self.key), metric


def at_least(value, of="native"):
    return Goal(">=", value, of)


def at_most(value, of="native"):
    return Goal("<=", value, of)
