"""docs/performance.md and its plots, from the raw results of one run. Every figure on it is computed here, except for what
profiles showed, which is written by hand (`notes.md`) and put in its place."""

from collections.abc import Iterable, Mapping
from typing import Any

from . import goals, plot
from .figures import METRICS, Figure, Results, number
from .servers import SERVERS
from .workloads import CLIENTS, Workload, left_out, workloads

OWN = ("outflow", "outflow-again", "outflow-emit", "outflow-disk")


class Page:
    """Markdown and the SVG files beside it."""

    def __init__(self, raw: Mapping[str, Any], notes: str = "") -> None:
        self.raw = raw
        self.notes = notes
        self.results = Results(raw["samples"])
        sampled = {sample["workload"] for sample in raw["samples"]}
        self.workloads = [workload for workload in workloads(quick=raw["quick"]) if workload.name in sampled]
        self.plots: dict[str, str] = {}

    def render(self) -> str:
        sections = [
            self.head(), self.reach(), self.noise(), *(self.section(workload) for workload in self.workloads),
            self.failures(), self.machine(), self.commands(),
        ]  # fmt: skip
        return "\n".join(section for section in sections if section)

    def head(self) -> str:
        raw = self.raw
        quick = "\n**A quick run with a hundredth of the work: its figures say nothing.**\n" if raw["quick"] else ""
        return f"""\
# Performance

<!-- Written by benches/peers/run. Do not edit: measure again. -->
{quick}
All servers answer the same contract with the same responses, on one machine, in one run on {raw["date"]} of
{count(raw["rounds"], "round")}. In each of them every server is measured once with every workload and client, one after the
other, and the next round begins with another one. Each measurement has a new server, which is warmed up first. Client and
server share the machine and talk over loopback, {raw["transport"]} text. Outflow logs warnings only, as the peers log nothing.

CPU is what the operating system has accounted to the server (user and system, children included) from the client's start
to its end. Figures are medians over the rounds, with the lowest and the highest; × is the ratio of the medians to outflow's
(so for costs: how many times as much). A measurement in which a response was missing or a call failed is none.
"""

    def reach(self) -> str:
        rows = [
            [v.says, v.where, v.wanted, v.measured, {True: "yes", False: "**no**", None: "–"}[v.reached]]
            for v in goals.verdicts(self.results, self.workloads)
        ]
        _, lost = goals.losses(self.results, self.workloads)
        lines = [
            "## What was to be reached\n",
            "Goals for the ratio of outflow's figure to the other server's (or for the figure itself), set beforehand.\n",
            table(["goal", "workload, client", "wanted", "measured", "reached"], rows),
        ]
        if lost:
            lost_rows = [
                [loss.workload, loss.client, METRICS[loss.metric].title, shown(loss.server), shown(loss.versus),
                 times(loss.ratio), times(loss.control)]
                for loss in lost
            ]  # fmt: skip
            lines += [
                "Where it is slower or dearer; what differs no more than the same server from itself is noise:\n",
                table(["workload", "client", "figure", "", "beside", "ratio", "the same server again"], lost_rows),
            ]
        if self.notes:
            lines += ["### Why, and what was tried\n", self.notes.strip() + "\n"]
        return "\n".join(lines)

    def noise(self) -> str:
        spreads, controls = [], []
        for (workload, client, server), samples in self.results.rows.items():
            metric = next(w.columns[0] for w in self.workloads if w.name == workload)
            figure = self.results.figure(workload, client, server, metric)
            if figure is not None and len(samples) > 1:
                spreads.append(figure.spread)
            if server == "outflow-again":
                ratio = self.results.ratio(workload, client, server, "outflow", metric)
                if ratio is not None:
                    controls.append((workload, client, METRICS[metric].title, ratio))
        lines = ["## Noise\n"]
        if spreads:
            ordered = sorted(spreads)
            middle, wide = ordered[len(ordered) // 2], ordered[-1]
            lines.append(
                f"From the lowest round to the highest, the main figure of a row differs by {percent(middle)} of its median in "
                f"the middle row and by {percent(wide)} in the worst of {len(ordered)}; every table shows it.\n"
            )
        if controls:
            worst = max(controls, key=lambda control: abs(control[3] - 1))
            lines.append(
                "As a control outflow is measured twice in each round, under two names. A ratio that is no further from 1 than "
                f"that of the two says nothing; the worst of these is {number(worst[3])} ({worst[0]}, {worst[1]}).\n"
            )
            rows = [[workload, client, title, times(ratio)] for workload, client, title, ratio in controls]
            lines.append(table(["workload", "client", "figure", "the same server again"], rows))
        loads = ", ".join(number(load) for load in self.raw["loads"])
        lines.append(f"Load average of the machine before each round: {loads}. Its host took {percent(self.raw['stolen'])} of")
        lines.append("its CPU time for others meanwhile.\n")
        return "\n".join(lines)

    def section(self, workload: Workload) -> str:
        lines = [f"## {workload.title}\n", f"`{workload.name}`. {workload.about}\n"]
        groups = []
        for client in workload.clients:
            servers = self.results.servers(workload.name, client)
            if servers:
                lines += [f"With {CLIENTS[client]}:\n", self.table_of(workload, client, servers)]
                groups.append(self.group(workload, client, servers))
        lines += self.left_out(workload)
        metric = METRICS[workload.columns[0]]
        groups = [group for group in groups if group.bars]
        if groups:
            self.plots[f"{workload.name}.svg"] = plot.bars(workload.title, f"{metric.title}, {metric.unit}", groups)
            lines.append(f"![{workload.title}: {metric.title}, {metric.unit}](performance/{workload.name}.svg)\n")
        return "\n".join(lines)

    def group(self, workload: Workload, client: str, servers: Iterable[str]) -> plot.Group:
        metric = workload.columns[0]
        figures = ((server, self.results.figure(workload.name, client, server, metric)) for server in servers)
        found = [plot.Bar(plain(shown(server)), figure, server in OWN) for server, figure in figures if figure]
        return plot.Group(plain(CLIENTS[client]), found)

    def table_of(self, workload: Workload, client: str, servers: list[str]) -> str:
        columns = [
            column
            for column in workload.columns
            if any(self.results.figure(workload.name, client, server, column) for server in servers)
        ]
        reference = "outflow" if "outflow" in servers else "outflow-disk"
        head = ["server"]
        for place, column in enumerate(columns):
            head.append(f"{METRICS[column].title}, {METRICS[column].unit}")
            if place == 0:
                head += ["×", "spread"]
        rows = []
        for server in servers:
            row = [shown(server)]
            for place, column in enumerate(columns):
                figure = self.results.figure(workload.name, client, server, column)
                row.append(span(figure))
                if place == 0:
                    ratio = self.results.ratio(workload.name, client, server, reference, column)
                    row += ["–" if ratio is None else number(ratio), percent(figure.spread) if figure else "–"]
            rows.append(row)
        return table(head, rows)

    def left_out(self, workload: Workload) -> list[str]:
        """Each server that has no row, with the reason."""
        reasons: dict[str, dict[str, None]] = {}
        for server in workload.servers:
            missing = [c for c in workload.clients if not self.results.rows.get((workload.name, c, server))]
            for client in missing:
                reason = left_out(workload, client, server) or self.raw["absent"].get(SERVERS[server].program)
                if reason:
                    everywhere = len(missing) == len(workload.clients)
                    words = reason if everywhere else f"{reason} ({client})"
                    reasons.setdefault(server, {})[words] = None
        if workload.name.startswith("fan-out"):
            reasons["every peer"] = {"makes the responses anew for each reader: see `streams`": None}
        if workload.name == "replay":
            reasons["every peer"] = {"keeps nothing that could be replayed": None}
        told = [f"- {shown(server)}: {'; '.join(words)}." for server, words in reasons.items()]
        return ["Left out:\n", *told, ""] if told else []

    def failures(self) -> str:
        failures = self.results.failures
        if not failures:
            return ""
        rows = [[str(f["round"]), f["workload"], f["client"], shown(f["server"]), f["failure"]] for f in failures]
        lines = ["## What failed\n", "These measurements are in no figure.\n"]
        return "\n".join([*lines, table(["round", "workload", "client", "server", "why"], rows)])

    def machine(self) -> str:
        machine = [[name, value] for name, value in self.raw["machine"].items()]
        servers = [[shown(server.name), server.about] for server in SERVERS.values() if self.measured(server.name)]
        versions = [[name, version] for name, version in self.raw["versions"].items()]
        return "\n".join(
            [
                "## Machine, servers and versions\n", table(["machine", ""], machine), table(["server", ""], servers),
                table(["version of", ""], versions),
            ]
        )  # fmt: skip

    def measured(self, server: str) -> bool:
        return any(row[2] == server for row in self.results.rows)

    def commands(self) -> str:
        lines = [
            "## Commands\n",
            "All of it again, on another machine:\n",
            "```console",
            f"$ benches/peers/run --rounds {self.raw['rounds']} --out results.json --page",
            "```\n",
            "What it starts, servers first:\n",
        ]
        for workload in self.workloads:
            samples = [row[0] for key, row in self.results.rows.items() if key[0] == workload.name]
            commands = dict.fromkeys(command for sample in samples for command in sample["commands"])
            lines += [f"<details><summary><code>{workload.name}</code></summary>\n", "```text", *commands]
            lines += ["```\n", "</details>\n"]
        return "\n".join([*lines, ""])


def shown(server: str) -> str:
    return SERVERS[server].shown if server in SERVERS else server


def plain(words: str) -> str:
    """Without Markdown's marks, for a picture."""
    return words.replace("`", "")


def span(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    if len(figure.values) == 1:
        return number(figure.median)
    return f"{number(figure.median)} ({number(figure.low)}–{number(figure.high)})"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{number(ratio)} ×"


def percent(part: float) -> str:
    return f"{number(part * 100)} %"


def table(head: list[str], rows: list[list[str]]) -> str:
    """In GitHub's Markdown; a bar in a cell would be the end of it."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines) + "\n"
