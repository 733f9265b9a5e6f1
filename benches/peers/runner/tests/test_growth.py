import json
import stat
import tempfile
import unittest
from pathlib import Path

from runner import growth
from runner.process import Failure, Supervisor

from .fixture import GROWTH

PRINTED = """\
journals in /tmp; client and server share 2 cores

readers of one run: server CPU per response that is delivered
  journaled           1     61.0 ns
  journaled       1000     20.5 ns
  journaled  falls: -9.0 % with each doubling

runs at once: server CPU per response that is delivered
  plain               1     20.0 ns
  plain            1000     21.0 ns
  plain      flat: +0.5 % with each doubling
  journaled           1     40.0 ns
  journaled       1000     90.0 ns
  journaled  GROWS: 31 % above a logarithm at the end

drawn into growth.svg
"""


class Reading(unittest.TestCase):
    def test_what_the_benchmark_prints_is_read(self) -> None:
        self.assertEqual(growth.read(PRINTED), GROWTH["series"])
        self.assertEqual([growth.grows(series) for series in GROWTH["series"]], [False, False, True])

    def test_what_ends_early_or_says_nothing_is_no_measurement(self) -> None:
        for text in ("", PRINTED.partition("  journaled  GROWS")[0], "NOT OPTIMIZED: ...\n" + PRINTED):
            with self.subTest(text), self.assertRaises(Failure):
                growth.read(text)

    def test_the_program_is_the_one_that_cargo_tells_of(self) -> None:
        messages = [
            {"reason": "compiler-artifact", "target": {"name": "growth"}, "executable": None},
            {"reason": "compiler-artifact", "target": {"name": "outflow"}, "executable": "/built/outflow"},
            {"reason": "compiler-artifact", "target": {"name": "growth"}, "executable": "/built/growth-1"},
        ]
        text = "\n".join(json.dumps(message) for message in messages)
        self.assertEqual(growth.built(text), Path("/built/growth-1"))
        with self.assertRaises(Failure):
            growth.built("warning: nothing\n")


class Measuring(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.addCleanup(setattr, growth, "SECONDS_MAX", growth.SECONDS_MAX)

    def measured(self, script: str) -> dict[str, object]:
        program = self.folder / "benchmark"
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        with Supervisor(self.folder) as supervisor:
            told = growth.measure(program, supervisor, self.folder, quick=False)
            self.assertEqual(supervisor.running, [])
        self.assertFalse((self.folder / "data").exists())
        return told

    def test_figures_and_drawing_are_kept(self) -> None:
        (self.folder / "printed").write_text(PRINTED)
        told = self.measured(f'[[ -d $2 ]] && cat "{self.folder}/printed" && echo "<svg/>" >"$4"')
        self.assertEqual((told["series"], told["svg"]), (GROWTH["series"], "<svg/>\n"))

    def test_it_is_bounded_and_nothing_of_it_is_left(self) -> None:
        growth.SECONDS_MAX = 0.2
        self.assertRegex(str(self.measured("sleep 600").get("failure")), "growth was not done after 0 s")

    def test_a_failure_is_told_without_this_machines_paths(self) -> None:
        told = self.measured('echo "error: no room in $2" >&2; exit 1')
        self.assertEqual(told["failure"], "growth ended with status 1: error: no room in WORK/data")
        (self.folder / "growth.svg").write_text("of an older run")
        (self.folder / "printed").write_text(PRINTED)
        self.assertIn("growth.svg", str(self.measured(f'cat "{self.folder}/printed"').get("failure")))
