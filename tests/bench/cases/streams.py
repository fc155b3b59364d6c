"""Bytes one way on one connection, by the size of a write: from the client, to it, and both at once."""

from functools import partial

from harness.case import Case, at_least, rate

from .own import Own, limit
from .round_trips import sized

CHUNKS = (64, 1024, 16384, 65536, 1048576)
WAYS = {"up": "client to server", "down": "server to client", "both": "both at once"}


def cases():
    for way in WAYS:
        for chunk in CHUNKS:
            yield case(chunk, way)


def case(chunk, way):
    metric = (
        rate("messages/s", *goals(chunk, way)) if chunk == 64 else rate("MB/s", *goals(chunk, way), name="megabytes")
    )
    return Case(
        key=f"stream {sized(chunk)}, {WAYS[way]}",
        group="Streams",
        load=partial(Own, client=("stream", "--chunk", chunk, "--way", way)),
        metrics=(metric,),
        limits=(
            {"ring": limit("ring", chunk, "two cores"), "unix": limit("unix-stream", chunk, "unpinned")}
            if way == "up"
            else {}
        ),
        seconds=1.0,
        quick=way == "up" and chunk in (64, 65536),
    )


def goals(chunk, way):
    if chunk == 64:
        return (at_least(20),)
    if chunk == 1024:
        return (at_least(5),)
    # The limit is measured one way only.
    return (at_least(1.5), at_least(0.7, of="limit")) if chunk >= 65536 and way == "up" else (at_least(1.5),)
