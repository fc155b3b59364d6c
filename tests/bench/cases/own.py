"""Loads that are tandem-load's: a server, a client told by stdin when to run, and the limits."""

import json
import os

from harness.case import Load
from harness.processes import Failed

ANSWER_WITHIN = 60


def cores(placement):
    """The server's and the client's cores: None, both, or two that are allowed to us."""
    allowed = sorted(os.sched_getaffinity(0))
    return {
        "unpinned": (None, None),
        "one core": ({allowed[0]}, {allowed[0]}),
        "two cores": ({allowed[0]}, {allowed[-1]}),
    }[placement]


class Own(Load):
    """A server that lives as long as the case, and a client a run; `steady`: one client for all of them."""

    def __init__(self, field, way, client, server=(), placement="unpinned", steady=False):
        super().__init__(field, way)
        self._client_words, self._server_words = client, server
        self._placement, self._steady = cores(placement), steady
        self._client = self.server = None

    def start(self):
        self.server = self._spawn("serve", *self._server_words, cores=self._placement[0])
        self._port = int(self.server.line(20))
        if self._steady:
            self._client = self.connect()

    def run(self, seconds):
        self.begin(seconds)
        return self.end_of_run(seconds)

    def begin(self, seconds):
        if not self._steady:
            self._client = self.connect()
        self._client.tell(seconds)

    def end_of_run(self, seconds):
        told = heard(self._client, seconds)
        if not self._steady:
            self.end(self._client)
        return told

    def connect(self):
        options = ("--port", self._port)
        if self._client_words[0] != "connects":
            options += ("--address", self.field.address)
        client = self._spawn(*self._client_words, *options, cores=self._placement[1])
        expect_ready(client)
        return client

    def processes(self):
        """Who stands for this way: for the cases that look at processes."""
        return [process for process in (self.server, self._client, self.way.daemon) if process]

    def _spawn(self, *words, **options):
        return self.spawn(self.field.load_program, *words, **options)


class Alone(Load):
    """A load without a server."""

    def __init__(self, field, way, words, environment=None, core=False):
        super().__init__(field, way)
        self._words, self._environment = words, environment
        self._cores = {min(os.sched_getaffinity(0))} if core else None

    def start(self):
        self._process = self.spawn(
            self.field.load_program, *self._words, environment=self._environment, cores=self._cores
        )
        expect_ready(self._process)

    def run(self, seconds):
        self._process.tell(seconds)
        return heard(self._process, seconds)


def limit(kind, size, placement):
    """The limit's load; where nothing is pinned, two ends that spin still need a core each."""
    if kind in ("spin", "ring"):
        placement = "two cores"
    ends = cores(placement)
    pins = ("--cores", ",".join(str(min(end)) for end in ends)) if ends[0] else ()
    return lambda field, way: Alone(field, way, ("limit", kind, "--size", size, *pins))


def expect_ready(process):
    word = process.line(ANSWER_WITHIN)
    if word != "ready":
        raise Failed(f"{process.words[1]} said '{word}' where it should be ready")


def heard(process, seconds):
    return json.loads(process.line(ANSWER_WITHIN + seconds))
