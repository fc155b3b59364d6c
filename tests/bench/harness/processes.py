"""Programs that run beside this one, and end with it."""

import contextlib
import os
import pwd
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


class Failed(Exception):
    """Something that was needed did not work; the text says what, and shows the program's own words."""


class Scratch:
    """A folder of our own (mode 0700). Its path leaves room for a socket's name, which has 107 bytes at most."""

    def __init__(self, owner=None):
        parent = os.environ.get("TMPDIR", "/tmp")
        self.path = Path(tempfile.mkdtemp(prefix="tandem-bench.", dir=parent if len(parent) <= 70 else "/tmp"))
        if owner:
            shutil.chown(self.path, owner, pwd.getpwnam(owner).pw_gid)

    def close(self):
        shutil.rmtree(self.path, ignore_errors=True)


class Process:
    """A program in a session of its own, with a pipe to its stdin, and one from its stdout unless `silent`."""

    def __init__(self, words, environment=None, cores=None, user=None, folder=None, silent=False):
        self.words = [str(word) for word in words]
        self._buffer = b""
        self._log = tempfile.TemporaryFile()
        credentials = {}
        if user:
            entry = pwd.getpwnam(user)
            credentials = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self._process = subprocess.Popen(
            self.words,
            env=clean_environment() | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=self._log if silent else subprocess.PIPE,
            stderr=self._log,
            cwd=folder,
            start_new_session=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
            **credentials,
        )

    @property
    def pid(self):
        return self._process.pid

    def tell(self, line):
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self.failed("has gone") from None

    def line(self, seconds):
        """The next line of its stdout."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0, deadline - time.monotonic())):
                    raise self.failed(f"said nothing for {seconds:.0f} s")
                more = os.read(self._process.stdout.fileno(), 65536)
                if not more:
                    raise self.failed("ended")
                self._buffer += more
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode()

    def output(self, seconds):
        """Waits for its end; everything that it wrote to stdout."""
        try:
            rest, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise self.failed(f"took more than {seconds:.0f} s") from None
        if self._process.returncode != 0:
            raise self.failed(f"ended with {self._process.returncode}", rest)
        return (self._buffer + rest).decode()

    def finish(self, seconds):
        """Ends its stdin, and waits for its own end."""
        self.tell_end()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.failed(f"did not end within {seconds:.0f} s of its stdin's end") from None

    def tell_end(self):
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def ended(self):
        return self._process.poll() is not None

    def close(self, with_signal=signal.SIGTERM):
        """Ends it and all of its session: its stdin ends, then a signal, then SIGKILL for who has not gone."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        for number in (with_signal, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
                self._process.wait(5)
                break
            except (subprocess.TimeoutExpired, ProcessLookupError):
                continue
        self._process.wait()
        self._log.close()

    def failed(self, what, output=b""):
        """A Failed with its own last words."""
        try:
            self._log.seek(0)
            words = self._log.read()[-2000:]
        except (OSError, ValueError):
            words = b""
        said = (output[-2000:] + words).decode(errors="replace").strip()
        return Failed(f"`{' '.join(self.words)}` {what}" + (f"; it said:\n{said}" if said else ""))


def clean_environment():
    """Nothing that the caller's shell has set may change what is measured."""
    dropped = ("TANDEM_", "LD_PRELOAD")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def free_port():
    """A TCP port that nobody on 127.0.0.1 holds right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(what, holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.02)


def listens(port):
    """Whether somebody listens there. Asked of the kernel: a connection would be a load of its own."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and int(words[1].rsplit(":", 1)[1], 16) == port:
                return True
    return False
