"""Connections that live shortly: Tandem must cost them nothing."""

from functools import partial

from harness.case import Case, Metric, at_least, rate

from .own import Own


def cases():
    for exchanges in (1, 20):
        yield Case(
            key=f"connect, {exchanges} exchange{'s' if exchanges > 1 else ''}, close",
            group="Short connections",
            load=partial(Own, client=("connects", "--exchanges", exchanges), server=("--plain", 64)),
            metrics=(rate("connections/s", at_least(0.98)), *parts()),
            # One exchange ends before a companion is asked for; twenty may end before it is there.
            carried=None if exchanges > 1 else False,
            turns=2,
            quick=True,
        )


def parts():
    """Where the time goes, without a goal of its own."""
    return tuple(Metric(f"{part} p50", f"{part} p50", "µs", False) for part in ("connect", "exchange", "close"))
