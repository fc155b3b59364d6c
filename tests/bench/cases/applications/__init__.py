"""Unmodified programs as Debian ships them, both ends under the way."""

from . import iperf3, memcached, nginx, postgresql, redis


def cases():
    return [case for room in (redis, memcached, nginx, postgresql, iperf3) for case in room.cases()]
