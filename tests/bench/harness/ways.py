"""Ways to run a program: natively, under Tandem, under another preloaded library.

Every load knows only its way, so that another transport (rsockets in a guest with a device, say) is one more `Way`
beside these two, given by `--way NAME=LIBRARY`, and nothing else changes.
"""

import json
import os
import shutil
import subprocess
import time

from .processes import Failed, Process, Scratch, clean_environment, wait_until


class Way:
    """Natively, or with a library put before libc."""

    def __init__(self, name, library=None, user=None):
        self.name, self.library, self.user = name, library, user
        self.environment = {"LD_PRELOAD": str(library)} if library else {}
        self.daemon = None

    def process(self, *words, environment=None, **options):
        environment = self.environment | (environment or {})
        return Process(words, environment=environment, user=self.user, **options)

    def carried(self):
        """Bytes that a companion has carried by now; None where there is no such thing."""
        return None

    def settled(self):
        """None: nobody counts. Else as `carried`, but waits until the figure stands still."""
        return None

    def close(self):
        pass


class Tandem(Way):
    """Under libtandem.so, with a policyd of our own, which is the witness."""

    def __init__(self, release, user=None):
        super().__init__("tandem", release / "libtandem.so", user)
        self._scratch = Scratch(user)
        if user:
            # Another user may not be able to enter the folder that this tree is in.
            for name in ("libtandem.so", "tandem-policyd", "tandem"):
                shutil.copy(release / name, self._scratch.path / name)
            release = self._scratch.path
            self.library = release / "libtandem.so"
        self._command = release / "tandem"
        socket = self._scratch.path / "policyd.sock"
        self.environment = {"LD_PRELOAD": str(self.library), "TANDEM_POLICYD": str(socket)}
        self.daemon = Process([release / "tandem-policyd", "--socket", socket], user=user)
        wait_until("tandem-policyd answers", self._answers)

    def status(self):
        options = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
        asked = subprocess.run(
            [self._command, "status", "--json"],
            env=clean_environment() | {"TANDEM_POLICYD": self.environment["TANDEM_POLICYD"]},
            capture_output=True,
            timeout=30,
            **options,
        )
        if asked.returncode != 0:
            raise Failed(f"tandem status: {asked.stderr.decode(errors='replace').strip()}")
        return json.loads(asked.stdout)

    def carried(self):
        return self.status()["tx_companion"]

    def settled(self):
        before, deadline = self.carried(), time.monotonic() + 2
        while time.monotonic() < deadline:
            time.sleep(0.02)
            now = self.carried()
            if now == before:
                break
            before = now
        return before

    def close(self):
        self.daemon.close()
        self._scratch.close()

    def _answers(self):
        if self.daemon.ended():
            raise self.daemon.failed("ended at once")
        try:
            return bool(self.status())
        except (Failed, subprocess.TimeoutExpired):
            return False


def unprivileged_user():
    """Whom to be where root is not allowed (PostgreSQL); None: whoever we are."""
    return "postgres" if os.geteuid() == 0 else None
