"""Instructions of a send and of a receive, by callgrind: in all, and line by line."""

import tempfile
from collections import Counter
from pathlib import Path

from ..processes import Failed

PAIRS = 10_000
TOP = 12
TIME = 300

# The calls of each kind of pair, as callgrind sees their names in libtandem.so and in libc.
CALLS = {"tcp": ("send", "recv"), "pipe": ("write", "read"), "poll": ("poll",)}
SIZES = (64, 1024)


def measure(field, native, tandem):
    """Carried: the hook and all below it. Passed on: what the hook adds to the program's own instructions."""
    carried = {}
    for size in SIZES:
        for call in CALLS["tcp"]:
            before = tandem.settled()
            costs = counted(field, tandem, "tcp", call, size)
            if tandem.settled() - before < PAIRS * size:
                raise Failed(f"the pair under callgrind was not carried: {tandem.status()}")
            carried[f"{call}, {size} B"] = {
                "instructions": sum(costs.values()),
                "functions": ranked(costs, lambda file, line, function: function),
                "files": ranked(costs, lambda file, line, function: file),
                "lines": ranked(
                    costs, lambda file, line, function: f"{file}:{line}" + ("" if ours(file) else f" in {function}")
                ),
            }
    passed = {}
    for kind, calls in CALLS.items():
        off = {"TANDEM_ATTACH": "off"}
        alone, under = (whole(field, way, kind, off) for way in (native, tandem))
        passed[" and ".join(calls)] = {"native": alone, "tandem": under, "more": under - alone}
    return {"carried": carried, "passed": passed}


def ranked(costs, name):
    sums = Counter()
    for place, count in costs.items():
        sums[name(*place)] += count
    return [{"where": where, "instructions": count} for where, count in sums.most_common()]


def counted(field, way, kind, call, size):
    """Instructions a call by (file, line, function), of the call and all that it calls."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        options = (
            f"--callgrind-out-file={out}",
            "--compress-pos=no",
            "--compress-strings=no",
            "--collect-atstart=no",
            f"--toggle-collect={call}",
        )
        valgrind(field, way, options, kind, PAIRS, size, {})
        costs = Counter()
        for place, count in self_costs(out.read_text()):
            costs[place] += count
    # What ran once or now and then (the first look-up of a symbol, the switch-over) is no part of a call.
    return Counter({place: count / PAIRS for place, count in costs.items() if count >= PAIRS / 100})


def whole(field, way, kind, environment):
    """Instructions of the program a call, by the difference of two runs."""
    totals = []
    for pairs in (0, PAIRS):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "callgrind.out"
            valgrind(field, way, (f"--callgrind-out-file={out}",), kind, pairs, 64, environment)
            totals.append(
                next(int(line.split()[1]) for line in out.read_text().splitlines() if line.startswith("totals:"))
            )
    return (totals[1] - totals[0]) / (2 * PAIRS)


def valgrind(field, way, options, kind, pairs, size, environment):
    words = ("valgrind", "--tool=callgrind", "--quiet", *options, field.load_program, "calls", kind)
    process = way.process(*words, "--pairs", pairs, "--size", size, environment=environment)
    try:
        process.output(TIME)
    finally:
        process.close()


def self_costs(text):
    """((file, line, function), instructions) of callgrind's own format: without what callees cost."""
    file, function, skip = "?", "?", False
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name in ("fl", "fi", "fe"):
            file = shortened(value)
        elif equals and name == "fn":
            function = value
        elif equals and name == "calls":
            # The line after it is what the callee cost.
            skip = True
        elif line and line[0].isdigit():
            number, count = line.split()[:2]
            if skip:
                skip = False
            else:
                yield (file, number, function), int(count)


def shortened(file):
    """Our own files from the crate on, the libraries' by name."""
    for mark in ("shim/src/", "policyd/protocol/"):
        if mark in file:
            return mark + file.split(mark, 1)[1]
    return f"rust's {file.split('/library/', 1)[1]}" if "/library/" in file else Path(file).name


def ours(file):
    return file.startswith(("shim/", "policyd/"))


def text(told):
    yield "Instructions a call, passed on: what the program executes a call (callgrind)"
    for call, figures in told["passed"].items():
        yield f"  {call:<20} natively {figures['native']:.1f}, under Tandem {figures['tandem']:.1f}: {figures['more']:+.1f}"
    for call, figures in told["carried"].items():
        yield f"\nInstructions a call, carried: {call}: {figures['instructions']:.0f}"
        for kind in ("functions", "files", "lines"):
            yield f"  by {kind[:-1]}:"
            for line in figures[kind][:TOP]:
                yield f"  {line['instructions']:8.1f}  {line['where']}"
