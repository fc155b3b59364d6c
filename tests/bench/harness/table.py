"""The results as text, for a terminal and for Markdown."""

from .results import best_limit, slower_than_native

HEADS = ("", "unit", "native", "Tandem", "limit", "ratio", "must reach", "by companion")


def printed(rows):
    """A table a group, columns aligned."""
    lines = []
    for group, some in grouped(rows):
        cells = [cells_of(row) for row in some]
        heads = (group, *HEADS[1:])
        widths = [max(len(line[at]) for line in [heads, *cells]) for at in range(len(heads))]
        lines.append("")
        for line in [heads, *cells]:
            left = line[0].ljust(widths[0]) + "  " + line[1].ljust(widths[1])
            lines.append((left + "".join("  " + line[at].rjust(widths[at]) for at in range(2, len(heads)))).rstrip())
    return "\n".join(lines)


def markdown(rows):
    lines = []
    for group, some in grouped(rows):
        lines += ["", f"### {group}", "", "| " + " | ".join(HEADS) + " |", "|---|---|" + "--:|" * (len(HEADS) - 2)]
        lines += ["| " + " | ".join(cells_of(row)) + " |" for row in some]
    return "\n".join(lines)


def grouped(rows):
    groups = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return groups.items()


def cells_of(row):
    ways, ratio = row["ways"], row["ratio"]
    limit = best_limit(row)
    return (
        row["key"],
        row["unit"],
        ranged(ways.get("native")),
        ranged(ways.get("tandem")),
        number(limit) if limit is not None else "",
        f"{number(ratio['median'])} ({number(ratio['low'])}–{number(ratio['high'])})" if ratio else "",
        "; ".join(map(goal_text, row["goals"])) + (" SLOWER" if slower_than_native(row) else ""),
        witness(row),
    )


def goal_text(goal):
    if goal["holds"] is None:
        return f"{goal['text']}: ?"
    return f"{goal['text']}: " + ("yes" if goal["holds"] else f"NO, {number(goal['figure'])}")


def witness(row):
    if row["errors"]:
        return "ERROR"
    if row["carried_share"] is not None:
        return f"{100 * row['carried_share']:.1f} %"
    return f"{row['carried'] / 1e6:,.1f} MB"


def ranged(figures):
    if not figures:
        return ""
    return f"{number(figures['median'])} ({number(figures['low'])}–{number(figures['high'])})"


def number(value):
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.2f} M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:,.1f} k"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
