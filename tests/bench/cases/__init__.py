"""The cases: micro loads of our own first, then applications.

Goals are the project's own: what must be reached in an interleaved run on two cores.
"""

from . import applications, calls, connections, many, round_trips, standing, streams


def all_cases():
    rooms = (round_trips, streams, many, connections, calls, standing, applications)
    return [case for room in rooms for case in room.cases()]
