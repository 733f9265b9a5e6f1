import re
import tempfile
import unittest
import xml.etree.ElementTree as xml
from dataclasses import replace
from pathlib import Path

from runner import plot
from runner.figures import Figure
from runner.goals import Verdict
from runner.main import write_page
from runner.page import Page, reached, table
from runner.plan import rotated
from runner.results import keep

from .fixture import GROWTH, raw, sample


class Pages(unittest.TestCase):
    def setUp(self) -> None:
        self.page = Page(raw())
        self.text = self.page.render()

    def lines(self, beginning: str) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith(beginning)]

    def test_rows_have_median_range_ratio_and_spread(self) -> None:
        self.assertIn("| grpc-go | 1.20 (1.08–1.44) | 40.0 | 30.0 % |", self.lines("| grpc-go | 1.20")[0])
        self.assertIn("| outflow | 0.0300 (0.0270–0.0360) | 1.00 | 30.0 % |", self.lines("| outflow | 0.0300")[0])

    def test_goals_are_judged(self) -> None:
        for goal, verdict in (
            ("at most 1/30 of grpc-go | stream,", "| ≤ 0.0333 × | 0.0250 × | 0.0250–0.0250 | yes |"),
            ("at most 1.6 × raw TCP", "| ≤ 1.60 × | 2.00 × | 2.00–2.00 | **no**, by 25.0 % |"),
            ("at most 1/6 of tonic", "| not measured | – | – |"),
        ):
            self.assertIn(verdict, self.lines(f"| small responses: {goal}")[0])

    def test_the_control_is_told(self) -> None:
        self.assertEqual(self.lines("| stream | tuned | server CPU | 1.10"), ["| stream | tuned | server CPU | 1.10 × |"])

    def test_what_failed_and_what_was_left_out_is_told_with_the_reason(self) -> None:
        self.assertIn("| 3 | stream | tuned | tonic, mpsc | it was \\| not done after 180 s |", self.text)
        self.assertIn("- nginx: was not built here.", self.text)
        self.assertIn("- raw TCP: has neither HTTP/2's windows nor its frames: see the tuned client (small);", self.text)

    def test_every_picture_is_there_and_is_xml(self) -> None:
        named = set(re.findall(r"\(performance/([^)]+)\)", self.text))
        self.assertEqual(named, set(self.page.plots))
        self.assertEqual(named, {"stream.svg"})
        picture = self.page.plots["stream.svg"]
        words = [element.text for element in xml.fromstring(picture).iter() if element.text]
        self.assertIn("server CPU, s per million responses (line: the lowest round to the highest)", words)
        self.assertIn("grpc-go", words)
        self.assertIn("prefers-color-scheme: dark", picture)

    def test_notes_are_put_where_they_belong(self) -> None:
        text = Page(raw(), "A profile shows why.\n").render()
        self.assertLess(text.index("### Why"), text.index("A profile shows why."))
        self.assertLess(text.index("A profile shows why."), text.index("## Noise"))
        self.assertNotIn("### Why", self.text)

    def test_how_costs_grow_is_told_with_its_picture(self) -> None:
        self.assertNotIn("## As there is more of it", self.text)
        page = Page(raw() | {"growth": GROWTH})
        text = page.render()
        self.assertIn("on 2026-01-02: of 3 costs **1 grow faster than a logarithm (runs at once, journaled)**.", text)
        self.assertIn("| runs at once | plain | 1: 20.0 · 1,000: 21.0 | flat: +0.5 % with each doubling |", text)
        self.assertIn("| runs at once | journaled | 1: 40.0 · 1,000: 90.0 | **GROWS: 31 % above a logarithm", text)
        self.assertEqual(set(re.findall(r"\(performance/([^)]+)\)", text)), set(page.plots))
        self.assertEqual(page.plots["growth.svg"], GROWTH["svg"])
        flat = GROWTH | {"series": GROWTH["series"][:2]}
        self.assertIn("of 2 costs none grows faster than a logarithm.", Page(raw() | {"growth": flat}).render())

    def test_a_growth_that_was_not_measured_is_told_with_the_reason(self) -> None:
        page = Page(raw() | {"growth": {"failure": "it was not built"}})
        self.assertIn("Not measured: it was not built.\n", page.render())
        self.assertNotIn("growth.svg", page.plots)

    def test_what_others_published_stands_by_itself(self) -> None:
        self.assertNotIn("## Published elsewhere", self.text)
        text = Page(raw(), published="Another machine.\n").render()
        self.assertIn("## Published elsewhere\n\nAnother machine.\n\n## What failed", text)

    def test_a_quick_run_says_so(self) -> None:
        self.assertNotIn("quick run", self.text)
        self.assertIn("quick run", Page(raw() | {"quick": True}).render())

    def test_old_pictures_go_when_a_page_is_written(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            old = Path(folder) / "performance" / "gone.svg"
            old.parent.mkdir()
            old.write_text("<svg/>")
            page, notes = Path(folder) / "performance.md", Path(folder) / "notes.md"
            write_page(raw(), page, Path(folder))
            self.assertEqual([picture.name for picture in old.parent.iterdir()], ["stream.svg"])
            self.assertEqual(page.read_text(), self.text)
            notes.write_text("A profile shows why.")
            (Path(folder) / "published.md").write_text("Another machine.")
            write_page(raw(), page, Path(folder))
            self.assertIn("### Why, and what was tried\n\nA profile shows why.", page.read_text())
            self.assertIn("## Published elsewhere\n\nAnother machine.", page.read_text())

    def test_who_was_measured_at_another_time_is_told(self) -> None:
        continued = raw()
        continued["parts"] *= 2
        self.assertNotIn("at another time", Page(continued).render())
        for one in continued["samples"]:
            # The run was interrupted in its third round, and raw TCP is measured again.
            one["part"] = 1 if (one["round"] == 3 and one["server"] != "outflow") or one["server"] == "tcp" else 0
        text = Page(continued).render()
        self.assertIn("Measured at another time than the others, and not in turn with them: raw TCP.\n", text)
        self.assertIn("continued once, with the same programs", text)

    def test_a_verdict_says_how_sure_it_is(self) -> None:
        verdict = Verdict("it is", "here", "≤ 1 ×", "1.1 ×", False, beyond=0.1, rounds=(2, 5))
        self.assertEqual(reached(verdict), "**no**, by 10.0 %, but in 2 of 5 rounds")
        self.assertEqual(reached(replace(verdict, reached=True, rounds=(4, 5))), "yes, in 4 of 5 rounds")
        self.assertEqual(reached(replace(verdict, reached=True, rounds=(5, 5))), "yes")

    def test_clients_have_one_table_where_they_are_compared(self) -> None:
        library = raw()
        library["absent"]["tonic-client"] = "was not built here"
        library["samples"] = [
            sample(1, "outflow", 1.0, "library", client, client_cpu_seconds=cpu)
            for client, cpu in (("fetch", 0.2), ("grpc-go", 0.4), ("outflow-client", 0.05))
        ]
        page = Page(library)
        rows = [
            line.split(" | ")[1:3] for line in page.render().splitlines() if line.startswith(("| outflow-cl", "| grpc-go:"))
        ]
        self.assertEqual(rows, [["0.0500", "1.00"], ["0.400", "8.00"]])
        self.assertIn("- tonic's generated client, large windows: was not built here.", page.render())
        words = [element.text for element in xml.fromstring(page.plots["library.svg"]).iter()]
        self.assertLessEqual({"outflow-client", "fetch", "grpc-go"}, set(words))

    def test_a_cell_ends_no_table(self) -> None:
        self.assertEqual(table(["a"], [["b|c\nd"]]), "| a |\n|---|\n| b\\|c d |\n")


class Plots(unittest.TestCase):
    def test_axes_have_round_places_from_zero_to_the_highest(self) -> None:
        for high, places in (
            (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
            (1.3, [0, 0.5, 1.0, 1.5]),
            (47.0, [0, 10, 20, 30, 40, 50]),
            (0.036, [0, 0.01, 0.02, 0.03, 0.04]),
        ):
            self.assertEqual([round(place, 9) for place in plot.ticks(high)], places)

    def test_names_are_written_and_not_meant(self) -> None:
        group = plot.Group("a < b", [plot.Bar("c & d", Figure((1.0,)), False)])
        words = [element.text for element in xml.fromstring(plot.bars("t", "s", [group])).iter()]
        self.assertLessEqual({"a < b", "c & d"}, set(words))

    def test_figures_of_nothing_can_be_drawn(self) -> None:
        xml.fromstring(plot.bars("t", "s", [plot.Group("g", [plot.Bar("b", Figure((0.0, 0.0)), True)])]))


class Runs(unittest.TestCase):
    def test_each_round_begins_with_another_server(self) -> None:
        servers = ["a", "b", "c"]
        self.assertEqual([rotated(servers, turn)[0] for turn in (1, 2, 3, 4)], ["a", "b", "c", "a"])
        self.assertEqual(sorted(rotated(servers, 2)), servers)

    def test_raw_results_are_kept_whole(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "results.json"
            keep({"samples": ["µ"]}, file)
            keep({"samples": []}, file)
            self.assertEqual([path.name for path in Path(folder).iterdir()], ["results.json"])
            self.assertEqual(file.read_text(), '{\n "samples": []\n}\n')
