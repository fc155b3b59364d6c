"""Where it was measured, and who else was at work."""

import os
import platform
import time
from pathlib import Path


def facts():
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "virtual": virtual(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": system(),
        "load_before": [round(figure, 2) for figure in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "CPU part")):
            return line.split(":", 1)[1].strip()
    return "unknown"


def virtual():
    return "hypervisor" in Path("/proc/cpuinfo").read_text()


def system():
    try:
        lines = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
        return lines.get("PRETTY_NAME", "unknown").strip('"')
    except OSError:
        return "unknown"


class Others:
    """How busy the cores are while nothing of ours runs: a short look before each round of a case.

    What a hypervisor takes away shows as stolen time, and is counted over all the time.
    """

    LOOK = 0.1
    NOISY = 0.1

    def __init__(self):
        self._busy = self._all = 0
        self._start = ticks()

    def look(self):
        before = ticks()
        time.sleep(self.LOOK)
        after = ticks()
        self._busy += after["busy"] - before["busy"]
        self._all += after["all"] - before["all"]

    def busy(self):
        return self._busy / self._all if self._all else 0.0

    def stolen(self):
        now = ticks()
        whole = now["all"] - self._start["all"]
        return (now["steal"] - self._start["steal"]) / whole if whole else 0.0

    def told(self):
        return {
            "others_busy": round(self.busy(), 3),
            "stolen": round(self.stolen(), 3),
            "load_after": [round(figure, 2) for figure in os.getloadavg()],
        }


def ticks():
    numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system_, idle, waiting, hard, soft, steal = numbers
    busy = user + nice + system_ + hard + soft + steal
    return {"busy": busy, "all": busy + idle + waiting, "steal": steal}


def warning(machine):
    """None, or a sentence that says how far the figures are to be trusted."""
    if machine["others_busy"] > Others.NOISY or machine["stolen"] > 0.05:
        busy, stolen = 100 * machine["others_busy"], 100 * machine["stolen"]
        return (
            f"NOISY: others kept the cores {busy:.0f} % busy while nothing was measured here, and the hypervisor took"
            f" {stolen:.0f} %. Ratios are a hint, absolute figures worthless."
        )
    return None
