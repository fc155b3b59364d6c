"""PostgreSQL and pgbench -S, on a small database that fits into memory. PostgreSQL refuses root."""

import re
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

from harness.case import Case, at_least, rate
from harness.processes import Failed, Process, wait_until

from .server import Server


def cases():
    yield case("pgbench -S, c8", ("-c", 8), 1.2)
    # A connection a transaction, whose start asks for a dozen messages.
    yield case("pgbench -S -C, c8", ("-c", 8, "-C"), 0.97, carried=None)


def case(key, setting, goal, carried=True):
    return Case(
        key=key,
        group="Applications",
        load=partial(PostgreSql, setting=setting),
        metrics=(rate("transactions/s", at_least(goal)),),
        carried=carried,
        as_user=True,
        # pgbench knows whole seconds only.
        seconds=1.0,
        turns=1 if carried else 2,
    )


class PostgreSql(Server):
    END = signal.SIGINT  # its fast shutdown

    def __init__(self, field, way, setting):
        super().__init__(field, way)
        self._setting = setting

    def words(self):
        data = self.folder / "data"
        self._plainly("initdb", "-D", data, "-U", "bench", "-A", "trust", "--no-sync")
        return (binary("postgres"), "-D", data, "-p", self.port, "-k", self.folder, "-F", "-h", "127.0.0.1")

    def start(self):
        super().start()
        # It listens before it serves.
        wait_until("PostgreSQL serves", self._serves)
        self._plainly("createdb", *self._server(), "bench")
        self._plainly("pgbench", *self._server(), "-i", "-q", "bench")

    def run(self, seconds):
        words = (*self._server(), *self._setting, "-S", "-n", "-T", max(1, round(seconds)), "bench")
        text = self.ask(binary("pgbench"), *words, seconds=seconds)
        found = re.search(r"tps = ([0-9.]+)", text)
        if not found:
            raise Failed(f"pgbench named no rate:\n{text}")
        return {"rate": float(found[1])}

    def _serves(self):
        return subprocess.run([binary("pg_isready"), "-q", *map(str, self._server())]).returncode == 0

    def _server(self):
        return ("-h", "127.0.0.1", "-p", self.port, "-U", "bench")

    def _plainly(self, name, *words):
        """What prepares the database is not under the way."""
        process = Process((binary(name), *words), user=self.way.user, folder=self.folder)
        try:
            process.output(120)
        finally:
            process.close()


def binary(name):
    """Debian keeps PostgreSQL's programs by version, off PATH."""
    found = shutil.which(name)
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin")):
        if (folder / name).exists():
            found = folder / name
    if not found:
        raise Failed(f"there is no {name}; scripts/setup bench installs it")
    return found
