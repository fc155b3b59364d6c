"""iperf3, its client sending."""

from functools import partial

from harness.case import Case, at_least, rate

from .server import Server, parsed, program


def cases():
    for streams in (1, 4):
        yield Case(
            key=f"iperf3, {streams} stream{'s' if streams > 1 else ''}",
            group="Applications",
            load=partial(Iperf3, streams=streams),
            metrics=(rate("MB/s", at_least(2), name="megabytes"),),
            # iperf3 knows whole seconds only.
            seconds=1.0,
        )


class Iperf3(Server):
    def __init__(self, field, way, streams):
        super().__init__(field, way)
        self._streams = streams

    def words(self):
        return (program("iperf3"), "-s", "-B", "127.0.0.1", "-p", self.port, "--forceflush")

    def run(self, seconds):
        words = ("-c", "127.0.0.1", "-p", self.port, "-P", self._streams, "-t", max(1, round(seconds)), "-J")
        received = parsed(self.ask(program("iperf3"), *words, seconds=seconds))["end"]["sum_received"]
        return {"megabytes": received["bits_per_second"] / 8e6, "bytes": received["bytes"]}
