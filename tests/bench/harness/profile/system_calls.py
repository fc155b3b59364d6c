"""System calls of a message, by strace on both ends: by name, the start of the programs left out."""

import tempfile
from collections import Counter
from pathlib import Path

from cases.own import cores, expect_ready, heard

PLACEMENTS = ("two cores", "one core", "unpinned")
WAITS = ("blocking", "epoll-lt")
SECONDS = 1.0


def measure(field, native, tandem):
    told = {}
    for wait in WAITS:
        for placement in PLACEMENTS:
            ways = {way.name: round_trips(field, way, wait, placement) for way in (native, tandem)}
            told[f"64 B round trip, {wait}, {placement}"] = ways
    for exchanges in (1, 20):
        words = ("connects", "--exchanges", exchanges)
        ways = {way.name: by_message(*two_ends(field, way, ("--plain", 64), words)) for way in (native, tandem)}
        told[f"connect, {exchanges} exchanges, close"] = ways
    told["64 B there and back in one thread"] = {way.name: one_thread(field, way) for way in (native, tandem)}
    return told


def round_trips(field, way, wait, placement):
    return by_message(*two_ends(field, way, ("--wait", wait), ("round-trips", "--wait", wait), placement))


def two_ends(field, way, server, client, placement="unpinned"):
    """Both ends traced, for a time and for hardly any: what is beyond the start of the programs is the messages'."""
    return [traced(field, way, server, client, cores(placement), seconds) for seconds in (SECONDS, 0.001)]


def traced(field, way, server_words, client_words, placement, seconds):
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / name for name in ("server", "client")]
        server = strace(way, outs[0], placement[0], field.load_program, "serve", *server_words)
        processes = [server]
        try:
            port = int(server.line(30))
            client = strace(way, outs[1], placement[1], field.load_program, *client_words, "--port", port)
            processes.append(client)
            expect_ready(client)
            client.tell(seconds)
            told = heard(client, seconds)
            # Both end with their stdin, and strace with them: only then it writes.
            for process in (client, server):
                process.finish(30)
        finally:
            for process in processes:
                process.close()
        return sum((counts(out) for out in outs), Counter()), told["count"]


def one_thread(field, way, pairs=2000):
    def run(count):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "calls"
            process = strace(way, out, None, field.load_program, "calls", "tcp", "--pairs", count)
            try:
                process.output(60)
            finally:
                process.close()
            return counts(out), count

    return by_message(run(pairs), run(0))


def strace(way, out, cores_, program, *words):
    # strace itself runs natively: the traced program gets its environment from it.
    environment = [word for name, value in way.environment.items() for word in ("-E", f"{name}={value}")]
    command = ("strace", "-f", "-c", "-U", "calls,name", "-o", out, *environment, program, *words)
    return way.process(*command, environment={"LD_PRELOAD": ""}, cores=cores_)


def counts(out):
    """Calls by name, of `strace -c -U calls,name`."""
    found = Counter()
    for line in out.read_text().splitlines():
        words = line.split()
        if len(words) == 2 and words[0].isdigit() and words[1] != "total":
            found[words[1]] = int(words[0])
    return found


def by_message(some, none):
    messages = some[1] - none[1]
    calls = {name: (count - none[0][name]) / messages for name, count in some[0].items()}
    calls = {name: count for name, count in sorted(calls.items(), key=lambda entry: -entry[1]) if count >= 0.001}
    return {"messages": messages, "all": sum(calls.values()), "by_name": calls}


def text(told):
    yield "System calls of a message, both ends together (strace, which slows each of them down: who waits sleeps more)"
    for load, ways in told.items():
        for way, figures in ways.items():
            names = ", ".join(f"{name} {count:.3g}" for name, count in list(figures["by_name"].items())[:6])
            yield f"  {load:<40} {way:<7} {figures['all']:7.3f}   {names}"
