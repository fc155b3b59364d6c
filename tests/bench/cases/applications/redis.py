"""redis-server and redis-benchmark."""

import csv
import re
import socket
from functools import partial

from harness.case import Case, Metric, at_least, rate
from harness.processes import Failed

from .server import Server, program

SETTINGS = {"c1": ("-c", 1), "c50": ("-c", 50), "c50 P16": ("-c", 50, "-P", 16)}
GOALS = {"c1": 3, "c50": 4, "c50 P16": 1.6}


def cases():
    for setting, words in SETTINGS.items():
        for operation in ("SET", "GET"):
            yield Case(
                key=f"redis {operation}, {setting}",
                group="Applications",
                load=partial(Redis, setting=words, operation=operation),
                metrics=(rate("requests/s", at_least(GOALS[setting])), Metric("p99", "p99", "µs", False)),
                seconds=1.0,
                quick=operation == "GET" and setting != "c50 P16",
            )


class Redis(Server):
    TRIAL = 20_000

    def __init__(self, field, way, setting, operation):
        super().__init__(field, way)
        self._setting, self._operation = setting, operation
        self._rate = None

    def words(self):
        return (program("redis-server"), "--port", self.port, "--save", "", "--appendonly", "no")

    def start(self):
        super().start()
        # redis-benchmark takes a count, not a time: so many requests as this way does in the time.
        self._rate = self._benchmark(self.TRIAL)["rate"]

    def run(self, seconds):
        before = self._bytes()
        told = self._benchmark(max(5000, int(self._rate * seconds)))
        return told | {"bytes": self._bytes() - before}

    def _bytes(self):
        """What the server counts on its sockets. Asked natively: our own connection is none of the load."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as asking:
            asking.sendall(b"INFO stats\r\n")
            answer = b""
            while b"total_net_output_bytes:" not in answer or not answer.endswith(b"\r\n"):
                more = asking.recv(65536)
                if not more:
                    raise Failed("redis-server closed instead of telling its stats")
                answer += more
        return sum(map(int, re.findall(rb"total_net_(?:in|out)put_bytes:(\d+)", answer)))

    def _benchmark(self, count):
        words = (
            "redis-benchmark",
            "-p",
            self.port,
            *self._setting,
            "-t",
            self._operation.lower(),
            "-n",
            count,
            "--csv",
        )
        text = self.ask(*words, seconds=5)
        for row in csv.DictReader(text.splitlines()):
            if row["test"] == self._operation:
                return {"rate": float(row["rps"]), "p99": 1000 * float(row["p99_latency_ms"])}
        raise Failed(f"redis-benchmark named no rate:\n{text}")
