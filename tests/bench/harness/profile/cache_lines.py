"""Cache lines that a carried send and receive touch, by lackey's trace of every access."""

from collections import Counter
from statistics import median

from ..processes import Failed

LINE = 64
PAIRS = 200
# The first ones are the warm-up of the ring and of valgrind's own start.
LEAVE_OUT = 50
TIME = 400

# The peer's lines are those that move between two cores. The slots are in memory that forked children share.
SHARED_WITH = {
    "/memfd:tandem-pair": "peer",
    "/memfd:tandem-board": "peer's board",
    "/memfd:tandem-registry": "policyd",
    "/dev/zero": "slots",
}


def measure(field, way, size=64):
    words = ("valgrind", "--tool=lackey", "--quiet", "--trace-mem=yes", "--log-fd=1", field.load_program)
    process = way.process(*words, "calls", "tcp", "--pairs", PAIRS, "--size", size, "--mark")
    try:
        calls = segments(process, TIME)
    finally:
        process.close()
    return {name: summary(some) for name, some in zip(("send", "recv"), calls)}


def segments(process, seconds):
    """For each send and each recv: the lines read and written, of shared and of private memory."""
    marker, shared, current = None, [], None
    calls, marks = ([], []), 0
    for line in lines_of(process, seconds):
        if line.startswith("marker "):
            marker = int(line.split()[1], 16)
        elif marker is None:
            continue
        elif " rw-s " in line:
            start, end = (int(address, 16) for address in line.split()[0].split("-"))
            shared.append((start, end, SHARED_WITH.get(line.split()[5], "shared")))
        elif line[:3] in (" L ", " S ", " M "):
            address, size = line[3:].split(",")
            address = int(address, 16)
            if address == marker:
                # Before the send, between the two, after the receive.
                current = None if marks % 3 == 2 else {"read": set(), "written": set()}
                if current is not None:
                    calls[marks % 3].append(current)
                marks += 1
            elif current is not None:
                touched = range(address // LINE, (address + int(size) - 1) // LINE + 1)
                if line[1] in "LM":
                    current["read"].update(touched)
                if line[1] in "SM":
                    current["written"].update(touched)
    if len(calls[1]) != PAIRS:
        raise Failed(f"lackey's trace has {len(calls[1])} receives, not {PAIRS}")
    return [[classified(call, shared) for call in some[LEAVE_OUT:]] for some in calls]


def lines_of(process, seconds):
    while True:
        try:
            yield process.line(seconds)
        except Failed:
            if process.ended():
                return
            raise


def classified(call, shared):
    def owner(line):
        return next((name for start, end, name in shared if start <= line * LINE < end), "private")

    owners = {what: Counter(map(owner, call[what])) for what in ("read", "written")}
    return {f"{name} {what}": owners[what][name] for name in (*SHARED_WITH.values(), "private") for what in owners}


def summary(calls):
    return {name: {"median": median(call[name] for call in calls), "often": often(calls, name)} for name in calls[0]}


def often(calls, name):
    """How many calls touched so many lines."""
    return dict(sorted(Counter(call[name] for call in calls).items()))


def text(told):
    yield "Cache lines touched by a carried call of 64 B (lackey); median, and calls by count"
    for call, figures in told.items():
        for name, figure in figures.items():
            if not figure["median"]:
                continue
            spread = ", ".join(f"{lines}: {calls}" for lines, calls in figure["often"].items())
            yield f"  {call}  {name:<22} {figure['median']:4.0f}   ({spread})"
