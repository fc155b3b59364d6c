"""scripts/bench: natively and under Tandem in turns. Started by that script, which builds what is run here."""

import argparse
import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from cases import all_cases  # noqa: E402 (found by the line above)
from harness import between, machine, results, table  # noqa: E402
from harness.measure import Field, Progress, measure  # noqa: E402
from harness.processes import Failed  # noqa: E402

ROUNDS, QUICK_ROUNDS, QUICK_SECONDS, GUEST_ROUNDS = 7, 5, 0.2, 5
# On a machine that is very slow a quick run keeps its time by fewer rounds.
QUICK_BUDGET, QUICK_ROUNDS_AFTER = 100, 2


def main():
    options = words()
    # The same clean-up for every way to be ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    if options.profile:
        from harness import profile

        return profile.run(Path(options.release), options.json)
    if options.read:
        told = json.loads(Path(options.read).read_text())
    else:
        chosen = choose(options)
        if options.list:
            print("\n".join(case.key for case in chosen))
            return 0
        told = measured(options, chosen)
        if options.guest:
            told["guest"] = between.measured(options.rounds or GUEST_ROUNDS, options.guest_way)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(told, indent=1))
    return show(options, told)


def words():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures natively and under Tandem, in turns.")
    parser.add_argument("case", nargs="*", help="only cases whose name has one of these words; default: all")
    parser.add_argument("--quick", action="store_true", help="few cases, short; fails on a ratio outside its band")
    parser.add_argument("--report", action="store_true", help="also writes tests/bench/BENCHMARKS.md and its plots")
    parser.add_argument("--guest", action="store_true", help="also between hosts, by SoftRoCE: some ten minutes more")
    parser.add_argument(
        "--guest-way", action="append", default=[], metavar="NAME=LIBRARY", help="there under that library, too"
    )
    parser.add_argument("--profile", action="store_true", help="instructions and system calls of a message instead")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}")
    parser.add_argument("--seconds", type=float, help="of one measurement; default: by case, 0.3 to 1")
    parser.add_argument("--json", type=Path, help="where every figure goes; default: target/bench.json")
    parser.add_argument("--read", metavar="JSON", help="shows what an earlier run has measured, and measures nothing")
    parser.add_argument("--list", action="store_true", help="names the cases")
    parser.add_argument(
        "--way", action="append", default=[], metavar="NAME=LIBRARY", help="measures under that library, too"
    )
    parser.add_argument("--address", default="127.0.0.1", help="the address of this host to connect our own loads by")
    parser.add_argument("--release", required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.json = options.json or Path(options.release).parent / "bench.json"
    return options


def choose(options):
    cases = [case for case in all_cases() if case.quick or not options.quick]
    if options.case:
        cases = [case for case in cases if any(word in case.key for word in options.case)]
    if not cases:
        raise Failed(f"no case has a name with {' or '.join(options.case)}; see --list")
    return cases


def measured(options, cases):
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    facts, others, progress = machine.facts(), machine.Others(), Progress(len(cases))
    field = Field(options.release, options.address, [pair.split("=", 1) for pair in options.way])
    done = []
    try:
        for case in cases:
            progress.begin(case)
            seconds = options.seconds or (QUICK_SECONDS if options.quick else case.seconds)
            late = options.quick and progress.seconds() > QUICK_BUDGET
            done.append(measure(field, case, QUICK_ROUNDS_AFTER if late else rounds, seconds, others))
            for error in done[-1].errors:
                print(f"ERROR: {case.key}: {error}", file=sys.stderr, flush=True)
    finally:
        field.close()
    facts |= others.told()
    return {"commit": commit(), "rounds": rounds, "quick": options.quick, "machine": facts, "rows": table_of(done)}


def table_of(done):
    tandem = {}
    for one in done:
        for key, metric in one.case.rows():
            figures = one.samples.get("tandem", {}).get(metric.name)
            if figures:
                tandem[key] = results.spread(figures)["median"]
    return [row for one in done for row in results.rows(one, tandem.get)]


def commit():
    asked = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True)
    return asked.stdout.decode().strip() or "unknown"


def show(options, told):
    """The table, the report if asked for, and what is wrong; the exit status."""
    facts, rows = told["machine"], told["rows"]
    print(table.printed(rows))
    loads = f"load {facts['load_before'][0]} before and {facts['load_after'][0]} after"
    print(
        f"\nMedians of {told['rounds']} rounds in turns (lowest–highest). Every figure: {options.read or options.json}"
    )
    print(f"{facts['processor']}, {facts['cores']} cores, Linux {facts['kernel']}, {loads}.")
    if "guest" in told:
        print("\nBetween hosts:\n\n" + "\n".join(between.markdown(told["guest"])))
    if options.report:
        from harness import report

        print(f"Report: {report.write(told, HERE)}")
    wrong = [f"{row['case']}: {error.splitlines()[0]}" for row in rows for error in row["errors"]]
    if told["quick"]:
        bands = tomllib.loads((HERE / "bands.toml").read_text())
        wrong += filter(None, (results.outside(row, bands) for row in rows))
    noisy = machine.warning(facts)
    if noisy:
        print(noisy, file=sys.stderr)
    for line in dict.fromkeys(wrong):
        print(f"ERROR: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
