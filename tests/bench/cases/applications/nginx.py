"""nginx with one worker, and wrk with one thread."""

import os
import re
from functools import partial

from harness.case import Case, at_least, rate
from harness.processes import Failed

from .server import Server, program

FILES = {"1KiB": 1 << 10, "64KiB": 64 << 10, "1MiB": 1 << 20}


def cases():
    yield case("1 KiB, c16", "1KiB", 16, 1.6)
    yield case("64 KiB, c16", "64KiB", 16, 0.98)
    yield case("1 MiB, c4", "1MiB", 4, 1.3)
    # A request, its answer and a close: over before a companion is asked for.
    yield case("1 KiB, c16, connection: close", "1KiB", 16, 0.97, keep_alive=False)


def case(words, file, connections, goal, keep_alive=True):
    return Case(
        key=f"nginx {words}",
        group="Applications",
        load=partial(Nginx, file=file, connections=connections, keep_alive=keep_alive),
        metrics=(rate("requests/s", at_least(goal)),),
        carried=True if keep_alive else None,
        # wrk knows whole seconds only.
        seconds=1.0,
        turns=1 if keep_alive else 2,
    )


class Nginx(Server):
    def __init__(self, field, way, file, connections, keep_alive):
        super().__init__(field, way)
        self._file, self._connections, self._keep_alive = file, connections, keep_alive

    def words(self):
        (self.folder / "www").mkdir()
        for name, size in FILES.items():
            (self.folder / "www" / name).write_bytes(os.urandom(size))
        (self.folder / "nginx.conf").write_text(self._configuration())
        return (program("nginx"), "-p", self.folder, "-c", self.folder / "nginx.conf", "-g", "daemon off;")

    def _configuration(self):
        user = "user root;" if os.geteuid() == 0 else ""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds)
        return (
            f"{user} worker_processes 1; pid {self.folder}/pid; error_log {self.folder}/error.log;\n"
            f"events {{ worker_connections 1024; }}\n"
            f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; {temporary}\n"
            f"server {{ listen 127.0.0.1:{self.port}; root {self.folder}/www; }} }}\n"
        )

    def run(self, seconds):
        seconds = max(1, round(seconds))
        header = () if self._keep_alive else ("-H", "Connection: close")
        words = ("-t1", f"-c{self._connections}", f"-d{seconds}s", *header)
        text = self.ask(program("wrk"), *words, f"http://127.0.0.1:{self.port}/{self._file}", seconds=seconds)
        found = re.search(r"Requests/sec:\s*([0-9.]+)", text)
        if not found or "Non-2xx" in text or "Socket errors" in text:
            raise Failed(f"wrk's requests failed:\n{text}")
        read = re.search(r"requests in .*?, ([0-9.]+)([KMGT]?)B read", text)
        bytes_read = float(read[1]) * 1024 ** " KMGT".index(read[2] or " ") if read else 0
        return {"rate": float(found[1]), "bytes": bytes_read}
