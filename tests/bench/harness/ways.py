"""Ways to run a program: natively, under Tandem, under another preloaded library.

Every load knows only its way, so that another transport (rsockets in a guest with a device, say) is one more `Way`
beside these two, given by `--way NAME=LIBRARY`, and nothing else changes.
"""

import json
import os
import shutil
import socket
import time

from .processes import Failed, Process, Scratch, wait_until


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
            for name in ("libtandem.so", "tandem-policyd"):
                shutil.copy(release / name, self._scratch.path / name)
            release = self._scratch.path
            self.library = release / "libtandem.so"
        self._socket = self._scratch.path / "policyd.sock"
        self.environment = {"LD_PRELOAD": str(self.library), "TANDEM_POLICYD": str(self._socket)}
        self.daemon = Process([release / "tandem-policyd", "--socket", self._socket], user=user)
        wait_until("tandem-policyd answers", self._answers)

    def status(self):
        """What `tandem status --json` says, asked without starting a program: that would be a load of its own."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(60)
            asking.connect(f"{self._socket}.control")
            asking.sendall(b'{"version":1,"request":"status"}\n')
            answer = b""
            while not answer.endswith(b"\n"):
                more = asking.recv(65536)
                if not more:
                    raise Failed("policyd closed its control socket instead of answering")
                answer += more
        return json.loads(answer)["status"]

    def carried(self):
        return self.status()["tx_companion"]

    def settled(self):
        before, deadline = self.carried(), time.monotonic() + 2
        while time.monotonic() < deadline:
            time.sleep(0.005)
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
        except (Failed, OSError):
            return False


def unprivileged_user():
    """Whom to be where root is not allowed (PostgreSQL); None: whoever we are."""
    return "postgres" if os.geteuid() == 0 else None
