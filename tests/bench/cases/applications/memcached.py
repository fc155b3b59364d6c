"""memcached, asked by tandem-load: nine gets to a set of 100 B. No loader that measures by time is in Debian 12."""

import os
from functools import partial

from harness.case import Case, Metric, at_least, rate

from ..own import expect_ready, heard
from .server import Server, program


def cases():
    for clients in (1, 32):
        yield Case(
            key=f"memcached, c{clients}",
            group="Applications",
            load=partial(Memcached, clients=clients),
            metrics=(rate("requests/s", at_least(3)), Metric("p99", "p99", "µs", False)),
            seconds=1.0,
        )


class Memcached(Server):
    def __init__(self, field, way, clients):
        super().__init__(field, way)
        self._clients = clients

    def words(self):
        user = ("-u", "root") if os.geteuid() == 0 else ()
        return (program("memcached"), *user, "-l", "127.0.0.1", "-p", self.port, "-U", 0)

    def run(self, seconds):
        words = ("memcached", "--port", self.port, "--connections", self._clients)
        client = self.spawn(self.field.load_program, *words)
        expect_ready(client)
        client.tell(seconds)
        told = heard(client, seconds)
        self.end(client)
        return told
