"""What a message costs in counts, which no load of the machine can blur.

`instructions`: by callgrind, and where they are spent. `system_calls`: by strace. `cache_lines`: by lackey, of shared and
of private memory. All of them run tandem-load; the first and the last with both ends of a connection in one thread, so
that nobody ever waits and every run is the same.
"""

import json

from ..measure import Field
from . import cache_lines, instructions, system_calls


def run(release, json_file):
    field = Field(release, "127.0.0.1")
    try:
        native, tandem = field.ways()[:2]
        told = {
            "instructions": instructions.measure(field, native, tandem),
            "cache_lines": cache_lines.measure(field, tandem),
            "system_calls": system_calls.measure(field, native, tandem),
        }
    finally:
        field.close()
    for room in (instructions, cache_lines, system_calls):
        print("\n".join(room.text(told[room.__name__.rsplit(".", 1)[1]])), end="\n\n")
    path = json_file.with_name("profile.json")
    path.write_text(json.dumps(told, indent=1))
    print(f"Every figure: {path}")
    return 0
