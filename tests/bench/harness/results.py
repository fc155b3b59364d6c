"""What the samples say: medians and ranges, ratios, goals and bands. Plain dictionaries, as in the JSON."""

from statistics import median

from .case import Goal


def rows(measured, tandem_of):
    """A row for each metric of a case. `tandem_of`: another row's median under Tandem, by key, or None."""
    for key, metric in measured.case.rows():
        row = {
            "key": key,
            "case": measured.case.key,
            "group": measured.case.group,
            "unit": metric.unit,
            "more_is_better": metric.more_is_better,
            "ways": {
                way: spread(samples[metric.name]) for way, samples in measured.samples.items() if metric.name in samples
            },
            "limits": list(measured.case.limits),
            "carried": measured.carried,
            "carried_share": measured.share(),
            "errors": measured.errors,
        }
        row["ratio"] = ratio(row["ways"])
        row["goals"] = [judged(goal, row, tandem_of) for goal in metric.goals]
        yield row


def spread(figures):
    return {"median": median(figures), "low": min(figures), "high": max(figures), "all": figures}


def ratio(ways):
    """Tandem's median by the native one; its range is that of the rounds' own ratios, each of runs side by side."""
    native, tandem = ways.get("native"), ways.get("tandem")
    if not native or not tandem or not native["median"]:
        return None
    pairs = [after / before for before, after in zip(native["all"], tandem["all"]) if before]
    return {"median": tandem["median"] / native["median"], "low": min(pairs), "high": max(pairs)}


def judged(goal: Goal, row, tandem_of):
    figure = subject(goal, row, tandem_of)
    return {
        "text": goal.text(),
        "of": goal.of,
        "figure": figure,
        "holds": None if figure is None else goal.holds(figure),
    }


def subject(goal, row, tandem_of):
    """The figure that the goal is about."""
    tandem = row["ways"].get("tandem")
    if goal.of == "native":
        return row["ratio"] and row["ratio"]["median"]
    if not tandem:
        return None
    if goal.of == "self":
        return tandem["median"]
    if goal.of == "more":
        native = row["ways"].get("native")
        return native and tandem["median"] - native["median"]
    other = best_limit(row) if goal.of == "limit" else tandem_of(goal.of)
    return other and tandem["median"] / other


def best_limit(row):
    figures = [row["ways"][name]["median"] for name in row["limits"] if name in row["ways"]]
    if not figures:
        return None
    return max(figures) if row["more_is_better"] else min(figures)


def speed_up(row):
    """How many times better than natively, whatever the unit: (median, low, high)."""
    figures = row["ratio"]
    if not figures or not all(figures.values()):
        return None
    if row["more_is_better"]:
        return figures["median"], figures["low"], figures["high"]
    return 1 / figures["median"], 1 / figures["high"], 1 / figures["low"]


def slower_than_native(row):
    """Below 0.98 × native in a figure whose goal is about that: to be named, with its reason."""
    better = speed_up(row)
    return any(goal["of"] == "native" for goal in row["goals"]) and better is not None and better[0] < 0.98


def outside(row, bands):
    """None, or a sentence: the ratio has left the band recorded for it, that of the best runs too."""
    band = bands.get(row["key"])
    if band is None or row["ratio"] is None:
        return None
    low, high = band
    figures = row["ratio"]["median"], ratio_of_best(row)
    if any(low <= figure <= high for figure in figures):
        return None
    return (
        f"{row['key']}: the ratio {figures[0]:.3g} (of the best runs: {figures[1]:.3g})"
        f" is outside the recorded band {low:g} to {high:g}"
    )


def ratio_of_best(row):
    """What others on the machine disturb least."""
    best = "high" if row["more_is_better"] else "low"
    return row["ways"]["tandem"][best] / row["ways"]["native"][best]
