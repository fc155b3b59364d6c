"""The measurements' table and JSON, from lines of: name, unit, side, value, bytes by companion."""

import json
import os
import platform
import sys
from statistics import median


def main(path, out, commit):
    rows = {}
    for line in open(path):
        name, unit, side, value, carried = line.rstrip("\n").split("\t")
        row = rows.setdefault(name, {"name": name, "unit": unit, "native": [], "tandem": [], "companion_bytes": 0})
        row[side].append(float(value))
        if side == "tandem":
            row["companion_bytes"] += int(carried)

    print(f"{'':<24}{'unit':<12}{'native':>12}{'range':>20}{'tandem':>12}{'range':>20}{'ratio':>8}")
    for row in rows.values():
        row["ratio"] = median(row["tandem"]) / median(row["native"])
        note = "" if row["companion_bytes"] else "   nothing was carried: TCP against TCP"
        print(
            f"{row['name']:<24}{row['unit']:<12}{number(median(row['native'])):>12}{spread(row['native']):>20}"
            f"{number(median(row['tandem'])):>12}{spread(row['tandem']):>20}{row['ratio']:>7.2f}x{note}"
        )
    print(f"\nMedians of {len(row['native'])} rounds, native and tandem in turns; the range is of all rounds.")

    with open(out, "w") as file:
        machine = {"kernel": platform.release(), "machine": platform.machine(), "cores": os.cpu_count()}
        json.dump({"commit": commit, **machine, "rows": list(rows.values())}, file, indent=1)
    print(f"All numbers: {out}")


def spread(values):
    return f"{number(min(values))}-{number(max(values))}"


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


main(*sys.argv[1:])
