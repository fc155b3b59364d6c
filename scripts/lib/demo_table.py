"""The demo's table, from lines of: setting, operation, side, requests/s, bytes by companion, bytes that redis counted.

usage: demo_table.py RESULTS CARRIER
"""

import sys
from statistics import median


def main(path, carrier):
    cells = {}
    for line in open(path):
        setting, operation, side, rate, carried, counted = line.rstrip("\n").split("\t")
        cell = cells.setdefault((setting, operation), {"native": [], "tandem": [], "carried": 0, "counted": 0})
        cell[side].append(float(rate))
        cell["carried"] += int(carried)
        cell["counted"] += int(counted)

    print()
    print(f"{'redis-benchmark':<22}{'native':>12}{'tandem':>12}{'ratio':>8}   {'by companion':>14}{'of all':>8}")
    for (setting, operation), cell in cells.items():
        native, tandem = median(cell["native"]), median(cell["tandem"])
        share = f"{100 * cell['carried'] / cell['counted']:.1f} %" if cell["counted"] else "?"
        print(
            f"{setting + ' ' + operation:<22}{native:>12,.0f}{tandem:>12,.0f}{tandem / native:>7.2f}x"
            f"   {megabytes(cell['carried']):>14}{share:>8}"
        )
    rounds = max(len(cell["native"]) for cell in cells.values())
    print(f"\nrequests/s, medians of {rounds} rounds, native and tandem in turns. By companion: bytes that went by {carrier}")
    print("under Tandem, and what part that is of all bytes that redis-server counted on its sockets.")
    return 0 if all(cell["carried"] for cell in cells.values()) else 1


def megabytes(count):
    return f"{count / 1e6:,.1f} MB"


sys.exit(main(sys.argv[1], sys.argv[2]))
