"""The rounds: every way of a case in turns, who goes first changing."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from .machine import Others
from .processes import Failed
from .ways import Tandem, Way, unprivileged_user

# So much of what the program sent must have gone by a companion. The rest are the calls before the switch-over, which
# waits for policyd: in a short run on a busy machine they may be most.
CARRIED_AT_LEAST = 0.5
CARRIED_AT_LEAST_IN_SHORT = 0.01
SHORT = 0.4


@dataclass
class Measured:
    case: object
    samples: dict = field(default_factory=dict)  # way or limit: metric: list of figures
    carried: int = 0  # bytes, by Tandem's companions
    sent: int = 0  # bytes that the program under Tandem says it sent; 0 where it doesn't
    errors: list = field(default_factory=list)

    def note(self, way, told):
        for metric in self.case.metrics:
            if metric.name in told:
                figures = self.samples.setdefault(way, {}).setdefault(metric.name, [])
                figures.append(told[metric.name] * metric.factor)

    def share(self):
        return self.carried / self.sent if self.sent else None

    def judge_witness(self, seconds):
        """Nothing carried where something should be compares TCP with TCP: an error, whatever the figures are."""
        if self.case.carried is None or self.errors:
            return
        least = CARRIED_AT_LEAST if seconds >= SHORT else CARRIED_AT_LEAST_IN_SHORT
        if self.case.carried and self.carried == 0:
            self.errors.append("nothing was carried by a companion: this compares TCP with TCP")
        elif self.case.carried and self.sent and self.share() < least:
            self.errors.append(f"only {100 * self.share():.1f} % of the bytes were carried by a companion")
        elif not self.case.carried and self.carried:
            self.errors.append(f"{self.carried} bytes were carried by a companion, and none should be")


class Field:
    """What the cases share: the built programs, the ways."""

    def __init__(self, release, address, others=()):
        self.release, self.address = Path(release), address
        self.load_program = self.release / "tandem-load"
        self._others = others
        self._ways = {}  # by whether they are a user's

    def ways(self, user=False):
        """Native, Tandem, and what `--way` names; with `user` as somebody who is not root."""
        if user not in self._ways:
            name = unprivileged_user() if user else None
            ways = [Way("native", user=name), Tandem(self.release, user=name)]
            ways += [Way(other, library, user=name) for other, library in self._others]
            self._ways[user] = ways
        return self._ways[user]

    def close(self):
        for ways in self._ways.values():
            for way in ways:
                way.close()


def measure(field_, case, rounds, seconds, others: Others):
    measured = Measured(case)
    loads = []
    try:
        for way in field_.ways(case.as_user):
            loads.append((way.name, way, case.load(field_, way)))
        for name, limit in case.limits.items():
            loads.append((name, None, limit(field_, Way("limit"))))
        for _, _, load in loads:
            load.start()
        for number in range(min(rounds, case.at_most_rounds or rounds)):
            others.look()
            order = loads[number % len(loads) :] + loads[: number % len(loads)]
            turns = [order if turn % 2 == 0 else order[::-1] for turn in range(case.turns)]
            for name, way, load in (entry for turn in turns for entry in turn):
                one(measured, name, way, load, seconds)
    except Failed as failure:
        measured.errors.append(str(failure))
    finally:
        for _, _, load in reversed(loads):
            load.close()
    measured.judge_witness(seconds)
    return measured


def one(measured, name, way, load, seconds):
    before = way.settled() if way else None
    told = load.run(seconds)
    measured.note(name, told)
    if before is not None:
        measured.carried += max(0, way.settled() - before)
        measured.sent += told.get("bytes", 0)


class Progress:
    """One line a case on stderr."""

    def __init__(self, total):
        self._total, self._done, self._started = total, 0, time.monotonic()

    def seconds(self):
        return time.monotonic() - self._started

    def begin(self, case):
        self._done += 1
        minutes, seconds = divmod(int(self.seconds()), 60)
        print(f"[{self._done}/{self._total} {minutes}:{seconds:02}] {case.key} ...", file=sys.stderr, flush=True)
