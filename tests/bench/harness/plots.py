"""The plots: SVG and PNG, with the range of the rounds as error bars and the machine's limit drawn in.

By matplotlib: Debian's package, kept up by a large project for twenty years.
"""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402 (the backend is chosen first)
from matplotlib.ticker import FuncFormatter  # noqa: E402

from .results import best_limit, speed_up  # noqa: E402

COLOURS = {"native": "#7a7a7a", "tandem": "#0b6e99", "limit": "#c0392b", "slower": "#d98c21"}
LOOK = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "tandem"}


def draw(results, folder):
    """Draws what there is figures for; the names of the plots, main one first."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {row["key"]: row for row in results["rows"] if not row["errors"]}
    drawn = []
    with plt.rc_context(LOOK):
        for name, picture in (
            ("speed-up", main_plot(rows)),
            ("round-trips", by_size(rows, round_trip_keys(), "round trip, p50", "µs", "message")),
            ("streams", by_size(rows, stream_keys(), "stream, client to server", "MB/s", "write")),
            ("tails", tails(rows)),
        ):
            if picture is not None:
                save(picture, folder, name)
                drawn.append(name)
    return drawn


def save(figure, folder, name):
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", dpi=150)
    plt.close(figure)


# What the main plot shows: one row of each kind that somebody would ask for.
MAIN = (
    ("64 B round trip, a core each, p50", "round trip 64 B, blocking, two cores, p50"),
    ("64 B round trip, one core, p50", "round trip 64 B, blocking, one core, p50"),
    ("64 B round trip, unpinned, p50", "round trip 64 B, blocking, unpinned, p50"),
    ("64 B round trip, epoll, p50", "round trip 64 B, epoll-lt, unpinned, p50"),
    ("stream of 64 B writes", "stream 64 B, client to server"),
    ("stream of 64 KiB writes", "stream 64 KiB, client to server"),
    ("8,000 connections, 64 active", "8,000 connections in epoll, 64 active"),
    ("200 blocked threads, p50", "200 blocked threads, a random one spoken to, p50"),
    ("connect, one exchange, close", "connect, 1 exchange, close"),
    ("redis GET, c1", "redis GET, c1"),
    ("redis GET, c50", "redis GET, c50"),
    ("memcached, c32", "memcached, c32"),
    ("nginx 1 KiB, c16", "nginx 1 KiB, c16"),
    ("nginx 1 MiB, c4", "nginx 1 MiB, c4"),
    ("pgbench -S, c8", "pgbench -S, c8"),
    ("iperf3, 1 stream", "iperf3, 1 stream"),
)


def main_plot(rows):
    """How many times faster than kernel TCP; the limit is what the machine does without any socket."""
    shown = [(label, rows[key]) for label, key in MAIN if key in rows and speed_up(rows[key])]
    if not shown:
        return None
    figure, axes = plt.subplots(figsize=(8, 1.1 + 0.3 * len(shown)), layout="constrained")
    for at, (label, row) in enumerate(shown):
        median, low, high = speed_up(row)
        error = [[max(0, median - low)], [max(0, high - median)]]
        colour = COLOURS["tandem" if median >= 1 else "slower"]
        axes.barh(at, median - 1, left=1, color=colour, height=0.62, xerr=error, error_kw={"lw": 1, "capsize": 2})
        axes.annotate(f"{median:.3g}×", (1.01, at), xycoords=("axes fraction", "data"), va="center", color=colour)
        limit = best_limit(row)
        if limit:
            native = row["ways"]["native"]["median"]
            reach = limit / native if row["more_is_better"] else native / limit
            axes.plot([reach], [at], "D", color=COLOURS["limit"], ms=5)
    axes.axvline(1, color=COLOURS["native"], lw=1)
    axes.plot([], [], color=COLOURS["native"], lw=1, label="kernel TCP")
    axes.plot([], [], "D", color=COLOURS["limit"], ms=5, label="what the machine does without sockets, same run")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.set_yticks(range(len(shown)), [label for label, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel("times faster than kernel TCP; bars: median, lines: range of the rounds")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return figure


def round_trip_keys():
    from cases.round_trips import PLACEMENTS, SIZES, sized

    places = {"unpinned": "unpinned", "one core": "both ends on one core", "two cores": "a core each"}

    def keys(place):
        return [(size, f"round trip {sized(size)}, blocking, {place}, p50") for size in SIZES]

    return {places[place]: keys(place) for place in PLACEMENTS}


def stream_keys():
    from cases.streams import CHUNKS, sized

    # A stream of 64 B writes is told in messages a second.
    return {"one way": [(chunk, f"stream {sized(chunk)}, client to server") for chunk in CHUNKS if chunk > 64]}


def by_size(rows, panels, what, unit, size_of):
    """A panel each: native, Tandem, and every limit that was measured, over the size."""
    panels = {title: [(size, rows[key]) for size, key in keys if key in rows] for title, keys in panels.items()}
    panels = {title: points for title, points in panels.items() if points}
    if not panels:
        return None
    figure, all_axes = plt.subplots(
        1, len(panels), figsize=(1.2 + 3.6 * len(panels), 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (title, points) in zip(all_axes[0], panels.items()):
        names = ["native", "tandem", *dict.fromkeys(name for _, row in points for name in row["limits"])]
        for name in names:
            line(axes, name, [(size, row["ways"][name]) for size, row in points if name in row["ways"]])
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(f"bytes a {size_of}")
        axes.legend(frameon=False, fontsize=8)
    all_axes[0][0].set_ylabel(f"{what}, {unit}")
    return figure


def line(axes, name, points):
    if not points:
        return
    sizes = [size for size, _ in points]
    medians = [figures["median"] for _, figures in points]
    below = [max(0, figures["median"] - figures["low"]) for _, figures in points]
    above = [max(0, figures["high"] - figures["median"]) for _, figures in points]
    style = {"native": "o-", "tandem": "s-"}.get(name, "D--")
    label = {"native": "kernel TCP", "tandem": "Tandem"}.get(name, f"limit: {name}")
    colour = COLOURS.get(name, COLOURS["limit"])
    axes.errorbar(sizes, medians, [below, above], fmt=style, color=colour, ms=4, lw=1.2, capsize=2, label=label)


def tails(rows):
    """p50, p99 and p99.9 of the 64 B round trip, where the scheduler decides."""
    from cases.round_trips import WAITS

    waits = [wait for wait in WAITS if f"round trip 64 B, {wait}, unpinned, p50" in rows]
    if not waits:
        return None
    figure, all_axes = plt.subplots(
        1, len(waits), figsize=(2.2 * len(waits) + 1, 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, wait in zip(all_axes[0], waits):
        for shift, way in ((-0.2, "native"), (0.2, "tandem")):
            for at, quantile in enumerate(("p50", "p99", "p99.9")):
                figures = rows[f"round trip 64 B, {wait}, unpinned, {quantile}"]["ways"].get(way)
                if figures:
                    error = [[figures["median"] - figures["low"]], [figures["high"] - figures["median"]]]
                    label = {"native": "kernel TCP", "tandem": "Tandem"}[way] if at == 0 else None
                    axes.bar(
                        at + shift,
                        figures["median"],
                        0.36,
                        yerr=error,
                        color=COLOURS[way],
                        label=label,
                        error_kw={"lw": 1, "capsize": 2},
                    )
        axes.set_yscale("log")
        axes.set_xticks(range(3), ("p50", "p99", "p99.9"))
        axes.set_title(wait, fontsize=9)
    all_axes[0][0].set_ylabel("64 B round trip, unpinned, µs")
    all_axes[0][0].legend(frameon=False, fontsize=8)
    return figure
