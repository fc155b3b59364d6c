"""Whether the instrument itself can be trusted: `python3 selftest.py RELEASE`, run by scripts/test."""

import sys
import unittest
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cases import all_cases  # noqa: E402
from cases.own import Own  # noqa: E402
from harness import results  # noqa: E402
from harness.case import Case, at_least, at_most, rate  # noqa: E402
from harness.machine import Others  # noqa: E402
from harness.measure import Field, measure  # noqa: E402
from harness.profile.instructions import self_costs  # noqa: E402
from harness.profile.system_calls import by_message  # noqa: E402

RELEASE = None


def row(native, tandem, more_is_better=True, goals=()):
    ways = {"native": results.spread(native), "tandem": results.spread(tandem)}
    made = {"key": "it", "ways": ways, "more_is_better": more_is_better, "limits": [], "ratio": results.ratio(ways)}
    return made | {"goals": [results.judged(goal, made, {}.get) for goal in goals]}


class Figures(unittest.TestCase):
    def test_the_ratio_is_of_medians_and_its_range_of_the_rounds(self):
        self.assertEqual(row([1, 2, 30], [4, 4, 30])["ratio"], {"median": 2.0, "low": 1.0, "high": 4.0})

    def test_times_better_is_the_other_way_round_for_a_latency(self):
        self.assertEqual(results.speed_up(row([10, 10], [5, 2], more_is_better=False)), (10 / 3.5, 2.0, 5.0))

    def test_goals(self):
        reached, missed = row([10], [20], goals=(at_least(2), at_least(3)))["goals"]
        self.assertTrue(reached["holds"] and not missed["holds"])
        self.assertTrue(row([10], [12], goals=(at_most(5, of="more"),))["goals"][0]["holds"])

    def test_slower_than_native_is_named(self):
        self.assertTrue(results.slower_than_native(row([100], [97], goals=(at_least(0.5),))))
        self.assertFalse(results.slower_than_native(row([100], [99], goals=(at_least(0.5),))))

    def test_a_band_is_left_only_by_the_medians_and_the_best_runs_together(self):
        bands = {"it": [0.5, 2]}
        self.assertIsNone(results.outside(row([10, 10, 10], [1, 1, 9]), bands))
        self.assertIn("outside", results.outside(row([10, 10, 10], [1, 1, 1]), bands))

    def test_every_band_is_of_a_quick_case(self):
        import tomllib

        bands = tomllib.loads((Path(__file__).resolve().parent / "bands.toml").read_text())
        keys = {key for case in all_cases() if case.quick for key, _ in case.rows()}
        self.assertEqual(set(bands) - keys, set())

    def test_names_are_names(self):
        keys = [key for case in all_cases() for key, _ in case.rows()]
        self.assertEqual(len(keys), len(set(keys)))


class Profile(unittest.TestCase):
    def test_what_a_callee_costs_is_not_its_callers(self):
        text = "fl=/a/shim/src/x.rs\nfn=send\n10 5\ncfn=memcpy\ncalls=1 0\n11 900\n12 7\nfi=/y.rs\n3 1\n"
        costs = dict(self_costs(text))
        self.assertEqual(sum(costs.values()), 13)
        self.assertEqual(costs[("shim/src/x.rs", "12", "send")], 7)

    def test_the_start_of_a_program_is_no_part_of_a_message(self):
        self.assertEqual(
            by_message(({"read": 210, "mmap": 9}, 100), ({"read": 10, "mmap": 9}, 0))["by_name"], {"read": 2.0}
        )


class Witness(unittest.TestCase):
    """Against the built programs."""

    def setUp(self):
        self.field = Field(RELEASE, "127.0.0.1")
        self.addCleanup(self.field.close)
        load = partial(Own, client=("round-trips",))
        self.case = Case("a round trip", "", load, (rate("round trips/s"),))

    def test_bytes_are_carried(self):
        measured = measure(self.field, self.case, 1, 0.2, Others())
        self.assertEqual(measured.errors, [])
        self.assertGreater(measured.carried, 0)

    def test_nothing_carried_is_an_error(self):
        self.field.ways()[1].environment["TANDEM_ATTACH"] = "off"
        measured = measure(self.field, self.case, 1, 0.2, Others())
        self.assertIn("nothing was carried", measured.errors[0])

    def test_a_program_that_fails_is_an_error_with_its_words(self):
        self.case.load = partial(Own, client=("round-trips", "--no-such-thing"))
        measured = measure(self.field, self.case, 1, 0.2, Others())
        self.assertIn("unexpected argument", measured.errors[0])


if __name__ == "__main__":
    RELEASE = sys.argv.pop(1)
    unittest.main(verbosity=1)
