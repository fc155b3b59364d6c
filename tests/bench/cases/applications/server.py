"""A server program on a port of its own."""

import json
import shutil
import signal

from harness.case import Load
from harness.processes import Failed, Scratch, free_port, listens, wait_until


class Server(Load):
    """`words` is of the load, and may use its port and folder."""

    END = signal.SIGTERM

    def __init__(self, field, way):
        super().__init__(field, way)
        self._scratch = None

    def start(self):
        self.port = free_port()
        self._scratch = Scratch(self.way.user)
        self.folder = self._scratch.path
        server = self.spawn(*self.words(), folder=self.folder, silent=True)
        wait_until(f"{server.words[0]} listens", lambda: server.ended() or listens(self.port))
        if server.ended():
            raise server.failed("ended at once")

    def words(self):
        raise NotImplementedError

    def ask(self, *words, seconds):
        """Runs a client to its end; what it wrote to stdout."""
        client = self.spawn(*words)
        try:
            return client.output(60 + 3 * seconds)
        finally:
            self.end(client)

    def close(self):
        while self._processes:
            self._processes.pop().close(self.END)
        if self._scratch:
            self._scratch.close()


def program(name):
    """Debian keeps servers in /usr/sbin, which users lack."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise Failed(f"there is no {name}; scripts/setup bench installs it")
    return found


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        raise Failed(f"this should be JSON:\n{text[:2000]}") from None
