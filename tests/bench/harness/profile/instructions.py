"""Instructions of a send and of a receive, by callgrind: in all, and line by line."""

import tempfile
from collections import Counter
from pathlib import Path

from ..processes import Failed

PAIRS = 10_000
TOP = 25
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
            lines = counted(field, tandem, "tcp", call, size, {})
            if tandem.settled() - before < PAIRS * size:
                raise Failed(f"the pair under callgrind was not carried: {tandem.status()}")
            carried[f"{call}, {size} B"] = {
                "instructions": sum(lines.values()),
                "lines": [{"where": where, "instructions": count} for where, count in lines.most_common(TOP)],
                "files": [{"where": file, "instructions": count} for file, count in by_file(lines).most_common()],
            }
    passed = {}
    for kind, calls in CALLS.items():
        off = {"TANDEM_ATTACH": "off"}
        alone, under = (whole(field, way, kind, off) for way in (native, tandem))
        passed[" and ".join(calls)] = {"native": alone, "tandem": under, "more": under - alone}
    return {"carried": carried, "passed": passed}


def counted(field, way, kind, call, size, environment):
    """Instructions a call by source line, of the call and all that it calls."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        options = (
            f"--callgrind-out-file={out}",
            "--compress-pos=no",
            "--compress-strings=no",
            "--collect-atstart=no",
            f"--toggle-collect={call}",
        )
        valgrind(field, way, options, kind, PAIRS, size, environment)
        lines = Counter()
        for where, count in self_costs(out.read_text()):
            lines[where] += count
    return Counter({where: count / PAIRS for where, count in lines.items() if count >= PAIRS / 100})


def whole(field, way, kind, environment):
    """Instructions of the program a call, by the difference of two runs."""
    totals = []
    for pairs in (0, PAIRS):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "callgrind.out"
            valgrind(field, way, (f"--callgrind-out-file={out}",), kind, pairs, 64, environment)
            totals.append(next(int(line.split()[1]) for line in out.read_text().splitlines() if line.startswith("totals:")))
    return (totals[1] - totals[0]) / (2 * PAIRS)


def valgrind(field, way, options, kind, pairs, size, environment):
    words = ("valgrind", "--tool=callgrind", "--quiet", *options, field.load_program, "calls", kind)
    process = way.process(*words, "--pairs", pairs, "--size", size, environment=environment)
    try:
        process.output(TIME)
    finally:
        process.close()


def self_costs(text):
    """(place, instructions) of callgrind's own format: what each line of source executed, without its callees."""
    file, function, skip = "???", "???", False
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name in ("fl", "fi", "fe"):
            file = value
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
                yield place(file, number, function), int(count)


def place(file, number, function):
    """Short: our own files from the crate on, the libraries' by name."""
    for mark in ("/shim/src/", "/policyd/protocol/"):
        if mark in file:
            return f"{mark.strip('/').removesuffix('/src')}: {file.split(mark, 1)[1]}:{number}"
    if "/library/" in file:
        # Inlined from core: the function that it stands in says where.
        return f"core: {file.rsplit('/library/', 1)[1]}:{number} in {function}"
    return f"{Path(file).name}:{number} in {function}"


def by_file(lines):
    files = Counter()
    for where, count in lines.items():
        files[where.rsplit(":", 1)[0] if " in " not in where else where.split(" in ", 1)[1]] += count
    return files


def text(told):
    yield "Instructions a call, passed on: what the program executes a call (callgrind)"
    for call, figures in told["passed"].items():
        yield f"  {call:<20} natively {figures['native']:.1f}, under Tandem {figures['tandem']:.1f}: {figures['more']:+.1f}"
    for call, figures in told["carried"].items():
        yield f"\nInstructions a call, carried: {call}: {figures['instructions']:.0f}"
        for line in figures["lines"]:
            yield f"  {line['instructions']:8.1f}  {line['where']}"
