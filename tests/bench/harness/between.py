"""Between hosts: scripts/bench-guest, where scripts/vm has a device, and what has to come of it."""

import json
import subprocess
import tempfile
from pathlib import Path

from .processes import Failed
from .results import spread
from .table import number, ranged

TOP = Path(__file__).resolve().parents[3]
LIMIT = 2400  # seconds for the guest, boot included
WAYS = {"tcp": "kernel TCP", "tandem": "Tandem", "rspreload": "librspreload", "device": "the device"}

# Row, Tandem's figure by whose, at most or at least, how many times.
GOALS = (
    ("round trip 64 B", "rspreload", "≤", 1.0),
    ("round trip 64 B", "device", "≤", 1.25),
    ("stream 64 KiB", "device", "≥", 0.9),
    ("stream 1 MiB", "device", "≥", 0.9),
)
# Microseconds of processor time a second, both ends.
IDLE = 500


def measured(rounds, ways=()):
    """What bench-guest has found out; it judges its own witnesses."""
    with tempfile.TemporaryDirectory() as folder:
        words = [word for pair in ways for word in ("--way", "{}=LD_PRELOAD={}".format(*pair.split("=", 1)))]
        vm = [TOP / "scripts/vm", "one", "--limit", str(LIMIT), "--share", folder]
        command = [*vm, "--", TOP / "scripts/bench-guest", "--rounds", str(rounds), *words]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            raise Failed("what is between hosts could not be measured; scripts/bench-guest says why above")
        return json.loads((Path(folder) / "bench-guest.json").read_text())


def goals(told):
    """[(what, whether it holds)]"""
    medians = {row["name"]: {way: seen["median"] for way, seen in row["ways"].items()} for row in told["rows"]}
    judged = []
    for name, other, sign, times in GOALS:
        figures = medians[name]
        ratio = figures["tandem"] / figures[other]
        holds = ratio <= times if sign == "≤" else ratio >= times
        said = "yes" if holds else f"NO, {number(ratio)}"
        judged.append((f"{name}: {sign} {times} × {WAYS.get(other, other)}: {said}", holds))
    meets, connects = medians.get("meet to switch-over"), medians["connect"]
    if meets:
        holds = meets["tandem"] <= connects["rspreload"]
        said = "yes" if holds else f"NO, {number(meets['tandem'] / connects['rspreload'])}"
        judged.append((f"meet to switch-over: ≤ 1 × librspreload's connect: {said}", holds))
    idle = next(figures for name, figures in medians.items() if name.startswith("idle"))
    more = idle["tandem"] - idle["tcp"]
    holds = more <= IDLE
    judged.append((f"idle: ≤ {IDLE} µs/s more than kernel TCP: {'yes' if holds else f'NO, {number(more)}'}", holds))
    return judged


def markdown(told):
    present = told["rows"][0]["ways"]
    ways = list(dict.fromkeys(way for way in (*WAYS, *present) if way in present))
    yield f"One device (SoftRoCE) in a guest that talks to itself, Linux {told['kernel']}, {told['cores']} emulated cores: order and ratio,"
    yield f"never speed. Medians of {told['rounds']} rounds, all ways in turns. The device's own limit is by perftest: ib_write_lat twice,"
    yield "ib_write_bw. By companion: bytes that Tandem's switches count, all rounds together."
    yield ""
    yield "| | " + " | ".join(WAYS.get(way, way) for way in ways) + " | by companion |"
    yield "|---|" + "--:|" * (len(ways) + 1)
    for row in told["rows"]:
        seen = row["ways"]
        cells = [ranged(spread(seen[way]["values"])) if way in seen else "" for way in ways]
        carried = f"{seen['tandem']['carried'] / 1e6:,.1f} MB" if "tandem" in seen else ""
        yield f"| {row['name']}, {row['unit']} | " + " | ".join(cells) + f" | {carried} |"
    yield ""
    yield from (f"- {text}" for text, _ in goals(told))
