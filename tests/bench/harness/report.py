"""BENCHMARKS.md, made from the results and nothing else."""

from . import between
from .machine import warning
from .plots import draw
from .results import slower_than_native
from .table import goal_text, markdown, number

INTRODUCTION = """# Benchmarks

Made by `scripts/bench --report`, not by hand. Native and Tandem ran in turns on one machine; the figures are medians of
{rounds} rounds, with the range of the rounds. A ratio is Tandem's median by the native one; its range is that of the ratios
of runs side by side. *Limit* is what the machine does without TCP, by the same loop in the same rounds: shared memory that
both ends spin on, sleep on (futex, eventfd in epoll) or copy through, and unix sockets. *By companion* is the witness: what
part of the bytes that the program sent went by a companion, as policyd counts.
"""

TITLES = {
    "speed-up": "How many times faster than kernel TCP",
    "round-trips": "Round trips by size",
    "streams": "Streams by size",
    "tails": "The slow ones among the round trips",
}


def write(results, folder):
    """The report and its plots, into `folder`; the report's path."""
    plots = draw(results, folder / "plots")
    path = folder / "BENCHMARKS.md"
    path.write_text("\n".join(text(results, plots)) + "\n")
    return path


def text(results, plots):
    machine, rows = results["machine"], results["rows"]
    yield INTRODUCTION.format(rounds=results["rounds"])
    virtual = " of a virtual machine" if machine["virtual"] else ""
    yield f"{machine['date']}, commit `{results['commit']}`: {machine['processor']}, {machine['cores']} cores{virtual},"
    yield f"{machine['memory_gib']} GiB, {machine['system']}, Linux {machine['kernel']}. Load average"
    busy, stolen = 100 * machine["others_busy"], 100 * machine["stolen"]
    yield f"before: {machine['load_before'][0]}; others kept the cores {busy:.1f} % busy, the hypervisor took {stolen:.1f} %"
    if warning(machine):
        yield ""
        yield f"**{warning(machine)}**"
    for name in plots:
        yield ""
        yield f"![{TITLES[name]}](plots/{name}.svg)"
    yield ""
    guest = results.get("guest")
    yield from verdict(rows, between.goals(guest) if guest else [])
    if guest:
        yield ""
        yield "## Between hosts"
        yield ""
        yield from between.markdown(guest)
    yield ""
    yield "## All figures"
    yield markdown(rows)


def verdict(rows, between_hosts):
    """What was reached, what was not, and where Tandem is slower than TCP."""
    goals = [(row, goal) for row in rows for goal in row["goals"]]
    missed = [(row, goal) for row, goal in goals if goal["holds"] is False]
    slower = [row for row in rows if slower_than_native(row)]
    broken = {row["case"]: row["errors"] for row in rows if row["errors"]}
    all_missed = [f"{row['key']}: {goal_text(goal)}" for row, goal in missed]
    all_missed += [f"between hosts, {text}" for text, holds in between_hosts if not holds]
    count = len(goals) + len(between_hosts)
    yield f"## Verdict: {count - len(all_missed)} of {count} goals reached"
    for title, lines in (
        ("Not reached", all_missed),
        ("Slower than 0.98 × native", [f"{row['key']}: {number(row['ratio']['median'])} × native" for row in slower]),
        (
            "Not measured",
            [f"{case}: {'; '.join(error.splitlines()[0] for error in errors)}" for case, errors in broken.items()],
        ),
    ):
        if lines:
            yield ""
            yield f"{title}:"
            yield ""
            yield from (f"- {line}" for line in lines)
