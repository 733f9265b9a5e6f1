import argparse
import copy
import datetime
import json
import tempfile
import unittest
from pathlib import Path

from runner import plan, results
from runner.main import grows, measure_growth
from runner.process import Supervisor
from runner.results import Refused, drop, joined, keep, measured, read

from .fixture import GROWTH, raw


def options(**chosen: object) -> argparse.Namespace:
    unchosen = {"workload": None, "client": None, "only": None, "quick": True, "transport": "plain"}
    return argparse.Namespace(**(unchosen | chosen))


class Continued(unittest.TestCase):
    def test_what_an_interrupted_run_measured_is_not_measured_again(self) -> None:
        old = raw()
        programs = ["outflow", "grpc-go-server", "raw-tcp", "tonic-mpsc"]
        todo = plan.cells(options(workload=["stream"], client=["tuned"]), programs)
        left = plan.steps(todo, 3, measured(old))
        # Outflow with `emit` was never measured, and tonic-mpsc failed where it was.
        self.assertEqual(
            [(step.turn, step.server) for step in left],
            [(1, "outflow-emit"), (1, "tonic-mpsc"), (2, "outflow-emit"), (2, "tonic-mpsc"), (3, "outflow-emit"),
             (3, "tonic-mpsc")],
        )  # fmt: skip
        self.assertEqual(len(plan.steps(todo, 3, set())), 18)

    def test_only_what_is_selected_is_measured_anew(self) -> None:
        old = raw()
        chosen = options(only=["grpc-go", "tonic-mpsc"], workload=["stream"])
        self.assertEqual(drop(old, lambda key: plan.selected(chosen, *key[1:])), 4)
        self.assertEqual({sample["server"] for sample in old["samples"]}, {"outflow", "outflow-again", "tcp"})
        self.assertEqual(drop(old, lambda key: plan.selected(options(workload=["idle"]), *key[1:])), 0)

    def test_the_parts_of_a_run_are_joined(self) -> None:
        old, new = raw(), raw() | {"rounds": 5, "absent": {}, "samples": []}
        new["versions"] = new["versions"] | {"s2-cli": "9"}
        whole = joined(old, new)
        self.assertEqual(whole["samples"], old["samples"])
        self.assertEqual((whole["rounds"], len(whole["parts"]), whole["absent"]), (5, 2, {}))
        self.assertEqual(whole["versions"]["s2-cli"], "9")

    def test_other_programs_and_machines_are_refused(self) -> None:
        for name, value, why in (
            ("versions", {"outflow": "def", "grpc-go": "1.2.3"}, "outflow is def and was abc"),
            ("machine", {"CPU": "Another CPU", "cores": "2"}, "the machine is Another CPU, 2 and was Some CPU, 2"),
            ("quick", True, "--quick is True and was False"),
        ):
            with self.subTest(name), self.assertRaisesRegex(Refused, why):
                joined(raw(), raw() | {name: value})

    def test_what_is_no_result_is_refused(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "results.json"
            for text in (None, "{", "[]", json.dumps(raw() | {"format": 1})):
                if text is not None:
                    file.write_text(text)
                with self.subTest(text), self.assertRaises(Refused):
                    read(file)

    def test_what_is_kept_is_read(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "results.json"
            kept = raw() | {"date": "µ"}
            before = copy.deepcopy(kept)
            keep(kept, file)
            self.assertEqual(read(file), before)
            self.assertEqual([path.name for path in Path(folder).iterdir()], ["results.json"])


class Growth(unittest.TestCase):
    def test_it_is_measured_once_and_again_where_it_failed(self) -> None:
        self.assertFalse(results.has_growth(raw()))
        self.assertFalse(results.has_growth(raw() | {"growth": {"failure": "it took too long"}}))
        self.assertTrue(results.has_growth(raw() | {"growth": GROWTH}))
        self.assertEqual(joined(raw() | {"growth": GROWTH}, raw())["growth"], GROWTH)

    def test_it_is_left_out_where_less_is_selected(self) -> None:
        for chosen, wanted in (({}, True), ({"no_growth": True}, False), ({"workload": ["first"]}, False)):
            self.assertEqual(grows(options(**({"no_growth": False} | chosen))), wanted)

    def test_a_benchmark_that_was_not_built_is_a_failure(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            chosen = options(growth=None, build_dir=Path(folder))
            with Supervisor(Path(folder)) as supervisor:
                self.assertEqual(
                    measure_growth(chosen, supervisor, Path(folder)), {"failure": "the benchmark was not built here"}
                )


class Estimates(unittest.TestCase):
    def test_what_was_measured_says_how_long_the_rest_will_take(self) -> None:
        todo = plan.cells(options(workload=["stream", "first"]), ["outflow", "grpc-go-server"])
        known = raw()
        for sample in known["samples"]:
            sample["took_seconds"] = {"outflow": 1.0, "grpc-go": 5.0}.get(sample["server"])
        estimate = plan.Estimate.of(known)
        steps = {step.key[1:]: step for step in plan.steps(todo, 1, set())}
        for row, seconds in (
            (("stream", "tuned", "outflow"), 1.0),
            (("stream", "tuned", "grpc-go"), 5.0),
            (("stream", "tuned", "outflow-emit"), 3.0),  # as the mean of its neighbours
            (("stream", "small", "outflow"), 3.0),
            (("first", "tuned", "outflow"), steps["first", "tuned", "outflow"].workload.about_seconds),
        ):
            self.assertEqual(estimate.seconds([steps[row]]), seconds, row)

    def test_the_end_is_a_time_of_day(self) -> None:
        self.assertEqual(plan.until(90 * 60, datetime.datetime(2026, 1, 2, 23, 0)), "00:30")

    def test_a_client_that_was_not_built_is_not_asked(self) -> None:
        chosen = options(workload=["library"])
        self.assertEqual([client for _, client, _ in plan.cells(chosen, ["outflow"])], ["fetch"])
        built = ["outflow", "outflow-client", "tonic-client", "grpc-go-client"]
        self.assertEqual(len(plan.cells(chosen, built)), 4)


class Keys(unittest.TestCase):
    def test_a_failure_is_no_measurement(self) -> None:
        self.assertEqual(len(measured(raw())), 12)
        self.assertEqual(len(raw()["samples"]), 13)
        self.assertEqual(results.key_of(raw()["samples"][-1]), (3, "stream", "tuned", "tonic-mpsc"))
