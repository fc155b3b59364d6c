"""A message there and back on one connection: by size, by how the ends wait, by where they run."""

from functools import partial

from harness.case import Case, at_most, times

from .own import Own, limit

SIZES = (1, 64, 1024, 4096, 16384, 65536, 262144, 1048576)
WAITS = ("blocking", "epoll-lt", "epoll-et", "poll")
PLACEMENTS = ("unpinned", "one core", "two cores")
QUICK = {
    (64, "blocking", "two cores"),
    (64, "blocking", "unpinned"),
    (64, "epoll-lt", "one core"),
    (65536, "blocking", "unpinned"),
}


def cases():
    """All sizes by all waits where the scheduler decides; pinned, all sizes by blocking calls and 64 B by all waits."""
    for placement in PLACEMENTS:
        for size in SIZES:
            for wait in WAITS:
                if placement == "unpinned" or wait == "blocking" or size == 64:
                    yield case(size, wait, placement)


def case(size, wait, placement):
    words = ("--wait", wait)
    return Case(
        key=f"round trip {sized(size)}, {wait}, {placement}",
        group="Round trips",
        load=partial(Own, client=("round-trips", *words, "--size", size), server=words, placement=placement),
        metrics=times(*goals(size, wait, placement)),
        limits=limits(size, wait, placement),
        seconds=0.5,
        quick=(size, wait, placement) in QUICK,
    )


def goals(size, wait, placement):
    """Of p50 and p99."""
    if size == 64 and wait == "blocking" and placement == "two cores":
        return (at_most(1 / 150), at_most(0.5, of="self")), ()
    if size == 64 and wait in ("blocking", "epoll-lt") and placement == "one core":
        return (at_most(0.6),), ()
    if size == 64 and placement == "unpinned":
        return (at_most(0.5),), (at_most(1.0),)
    return (at_most(1 / 0.98),), ()


def limits(size, wait, placement):
    if wait == "poll" or wait == "epoll-et" or (size != 64 and wait != "blocking"):
        return {}
    kinds = {"two cores": ("spin",), "one core": ("futex",), "unpinned": ("unix", "spin")}[placement]
    if wait == "epoll-lt":
        kinds = {"two cores": ("spin",), "one core": ("eventfd",), "unpinned": ("eventfd",)}[placement]
    return {kind: limit(kind, size, placement) for kind in kinds}


def sized(size):
    if size >= 1 << 20:
        return f"{size >> 20} MiB"
    return f"{size >> 10} KiB" if size >= 1024 else f"{size} B"
