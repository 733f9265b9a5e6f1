"""docs/performance.md and its plots, from the raw results of one run. Every figure on it is computed here, except for what
profiles showed, and what others have published, which is written by hand (`notes.md`, `published.md`) and put in its place."""

from collections.abc import Iterable, Mapping
from statistics import mode
from typing import Any

from . import goals, growth, plot
from .figures import METRICS, Figure, Results, Row, number, per
from .servers import CLIENT_PROGRAMS, SERVERS
from .workloads import CLIENTS, TRANSPORTS, Workload, left_out, workloads

OWN = ("outflow", "outflow-again", "outflow-emit", "outflow-disk")
REFERENCES = ("outflow", "outflow-disk")
OWN_CLIENTS = ("outflow-client", "fetch")


class Page:
    """Markdown and the SVG files beside it."""

    def __init__(self, raw: Mapping[str, Any], notes: str = "", published: str = "") -> None:
        self.raw = raw
        self.notes = notes
        self.published = published
        self.results = Results(raw["samples"])
        sampled = {sample["workload"] for sample in raw["samples"]}
        self.workloads = [workload for workload in workloads(quick=raw["quick"]) if workload.name in sampled]
        self.plots: dict[str, str] = {}

    def render(self) -> str:
        sections = [
            self.head(), self.reach(), self.noise(), *(self.section(workload) for workload in self.workloads),
            self.growth(), self.elsewhere(), self.failures(), self.machine(), self.commands(),
        ]  # fmt: skip
        return "\n".join(section for section in sections if section)

    def head(self) -> str:
        raw = self.raw
        quick = "\n**A quick run with a hundredth of the work: its figures say nothing.**\n" if raw["quick"] else ""
        return f"""\
# Performance

<!-- Written by benches/peers/run. Do not edit: measure again. -->
{quick}
All servers answer the same contract with the same responses, on one machine, {self.when()}. In each round every
server is measured once with every workload and client, one after the other, and the next round begins with another one.
Each measurement has a new server, which is warmed up first. Client and server share the machine and talk over loopback,
{TRANSPORTS[raw["transport"]].says}. Outflow logs warnings only, as the peers log nothing.

CPU is what the operating system has accounted to the server (user and system, children included) from the client's start
to its end. Figures are medians over the rounds, with the lowest and the highest, and the spread is the difference of these
two as a part of the median; × is the ratio of the medians to outflow's (so for costs: how many times as much). A measurement
in which a response was missing or a call failed is none.
"""

    def when(self) -> str:
        """In one run, or in how many parts."""
        parts, rounds = self.raw["parts"], count(self.raw["rounds"], "round")
        dates = list(dict.fromkeys(part["date"] for part in parts))
        told = f"in one run of {rounds} on {' and '.join(dates)}"
        if len(parts) > 1:
            told += f" that was continued {times_told(len(parts) - 1)}, with the same programs"
        return told

    def reach(self) -> str:
        verdicts = goals.verdicts(self.results, self.workloads)
        rows = [[v.says, v.where, v.wanted, v.measured, v.spread, reached(v)] for v in verdicts]
        _, lost = goals.losses(self.results, self.workloads)
        tally = [sum(1 for v in verdicts if v.reached is wanted) for wanted in (True, False, None)]
        lines = [
            "## What was to be reached\n",
            f"Of {count(len(verdicts), 'goal')} {tally[0]} {'is' if tally[0] == 1 else 'are'} reached, {tally[1]} missed and "
            f"{tally[2]} not measured. Each is a bound, set beforehand, on outflow's figure or on its ratio to the other "
            "server's. The verdict is by the medians; the spread is from the lowest to the highest of the rounds, each of "
            "which is compared within itself.\n",
            table(["goal", "workload, client", "wanted", "measured", "spread", "reached"], rows),
        ]
        if lost:
            lost_rows = [
                [loss.workload, loss.client, METRICS[loss.metric].title, shown(loss.server), shown(loss.versus),
                 times(loss.ratio), times(loss.control),
                 "noise" if loss.noise else "**lost**"]
                for loss in lost
            ]  # fmt: skip
            lines += [
                "Where it is slower or dearer; what differs no more than the same server from itself is noise:\n",
                table(["workload", "client", "figure", "", "beside", "ratio", "the same server again", ""], lost_rows),
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
        parts = self.raw["parts"]
        loads = ", ".join(number(load) for part in parts for load in part["loads"])
        stolen = sum(part["stolen_ticks"] for part in parts) / max(1, sum(part["ticks"] for part in parts))
        lines.append(f"Load average of the machine before each round: {loads}. Its host took {percent(stolen)} of its CPU time")
        lines.append("for others meanwhile.\n")
        return "\n".join(lines)

    def section(self, workload: Workload) -> str:
        lines = [f"## {workload.title}\n", f"`{workload.name}`. {workload.about}{workload.amounts}\n"]
        groups = []
        if workload.by_client:
            rows = [(workload.name, client, workload.servers[0]) for client in workload.clients]
            rows = [row for row in rows if row in self.results.rows]
            lines.append(self.table_of(workload, rows))
            groups.append(self.group(workload, "", rows))
        else:
            for client in workload.clients:
                rows = self.rows(workload, client)
                if rows:
                    lines += [f"With {CLIENTS[client]}:\n", self.table_of(workload, rows), *self.at_other_times(rows)]
                    groups.append(self.group(workload, plain(CLIENTS[client]), rows))
        lines += self.left_out(workload)
        metric = METRICS[workload.columns[0]]
        groups = [group for group in groups if group.bars]
        if groups:
            self.plots[f"{workload.name}.svg"] = plot.bars(workload.title, f"{metric.title}, {metric.unit}", groups)
            lines.append(f"![{workload.title}: {metric.title}, {metric.unit}](performance/{workload.name}.svg)\n")
        return "\n".join(lines)

    def rows(self, workload: Workload, client: str) -> list[Row]:
        """In the order of the servers, whichever was measured first."""
        every = [(workload.name, client, server) for server in workload.servers]
        return [row for row in every if row in self.results.rows]

    def group(self, workload: Workload, title: str, rows: Iterable[Row]) -> plot.Group:
        figures = ((row, self.results.figure(*row, workload.columns[0])) for row in rows)
        found = [
            plot.Bar(row[1] if workload.by_client else plain(shown(row[2])), figure, own(workload, row))
            for row, figure in figures
            if figure
        ]
        return plot.Group(title, found)

    def table_of(self, workload: Workload, rows: list[Row]) -> str:
        columns = [c for c in workload.columns if any(self.results.figure(*row, c) for row in rows)]
        head = ["client" if workload.by_client else "server"]
        for place, column in enumerate(columns):
            head.append(f"{METRICS[column].title}, {METRICS[column].unit}")
            if place == 0:
                head += ["×", "spread"]
        cells = []
        # Everything is compared with outflow, which is the first where it was measured.
        reference = (
            self.results.figure(*rows[0], columns[0])
            if columns and own(workload, rows[0]) and rows[0][2] in REFERENCES
            else None
        )
        for row in rows:
            line = [head_of(workload, row)]
            for place, column in enumerate(columns):
                figure = self.results.figure(*row, column)
                line.append(span(figure))
                if place == 0:
                    ratio = per(figure.median, reference.median) if figure and reference else None
                    line += ["–" if ratio is None else number(ratio), spread(figure)]
            cells.append(line)
        return table(head, cells)

    def at_other_times(self, rows: list[Row]) -> list[str]:
        """Who was measured in another part of a continued run than the others of a table, in most rounds."""
        parts = {row: {sample["round"]: sample["part"] for sample in self.results.rows[row]} for row in rows}
        usual = {}
        for turn in {turn for found in parts.values() for turn in found}:
            there = [found[turn] for found in parts.values() if turn in found]
            usual[turn] = mode(there)
        lone = [row for row, found in parts.items() if 2 * sum(usual[t] != part for t, part in found.items()) > len(found)]
        if not lone:
            return []
        names = ", ".join(shown(row[2]) for row in lone)
        return [f"Measured at another time than the others, and not in turn with them: {names}.\n"]

    def left_out(self, workload: Workload) -> list[str]:
        """Each server (or client, where these are compared) that has no row, with the reason."""
        if workload.by_client:
            absent = self.raw["absent"]
            told = [f"- {CLIENTS[c]}: {absent[p]}." for c in workload.clients if (p := CLIENT_PROGRAMS.get(c)) in absent]
            return ["Left out:\n", *told, ""] if told else []
        reasons: dict[str, dict[str, None]] = {}
        for server in workload.servers:
            missing = [c for c in workload.clients if not self.results.rows.get((workload.name, c, server))]
            for client in missing:
                absent = self.raw["absent"].get(SERVERS[server].program)
                reason = left_out(workload, client, server, self.raw["transport"]) or absent
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

    def growth(self) -> str:
        """What the benchmark printed and drew, which is kept with the results."""
        told = self.raw.get("growth")
        if told is None:
            return ""
        lines = [
            "## As there is more of it\n",
            "What a response costs the server's CPU as there are more readers of one run, more runs at once, more streams on "
            "one connection, more responses in one run: the least of two rounds at each point, each on a server and a store of "
            "its own, by the benchmark's own client and source (`cargo bench -p outflow --bench growth`).\n",
        ]
        if "failure" in told:
            return "\n".join([*lines, f"Not measured: {told['failure']}.\n"])
        series = told["series"]
        bad = [one for one in series if growth.grows(one)]
        verdict = "none grows faster than a logarithm"
        if bad:
            verdict = f"**{len(bad)} grow faster than a logarithm ({'; '.join(named(one) for one in bad)})**"
        lines += [
            f"Measured after the rounds, on {told['date']}: of {len(series)} costs {verdict}. A fitted cost that rises "
            "by no more than 30 % of the mean from the first point to the last is called flat.\n",
            table(
                ["more", "runs", "ns of server CPU per response, at each count", "how it grows"],
                [[one["axis"], one["kept"], at_each(one["points"]), marked(one)] for one in series],
            ),
            "![Server CPU per response over the number of readers, runs and streams, and over the length of a run]"
            "(performance/growth.svg)\n",
        ]
        self.plots["growth.svg"] = told["svg"]
        return "\n".join(lines)

    def elsewhere(self) -> str:
        return f"## Published elsewhere\n\n{self.published.strip()}\n" if self.published else ""

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
            "Where a server's time goes, by a profile of one measurement (it needs `perf`):\n",
            "```console",
            "$ benches/peers/profile bulk-1024k tuned outflow",
            "```\n",
            "What it starts, servers first:\n",
        ]
        for workload in self.workloads:
            samples = [row[0] for key, row in self.results.rows.items() if key[0] == workload.name]
            commands = dict.fromkeys(command for sample in samples for command in sample["commands"])
            lines += [f"<details><summary><code>{workload.name}</code></summary>\n", "```text", *commands]
            lines += ["```\n", "</details>\n"]
        return "\n".join([*lines, ""])


def head_of(workload: Workload, row: Row) -> str:
    return f"{row[1]}: {CLIENTS[row[1]]}" if workload.by_client else shown(row[2])


def own(workload: Workload, row: Row) -> bool:
    return row[1] in OWN_CLIENTS if workload.by_client else row[2] in OWN


def named(series: Mapping[str, Any]) -> str:
    return f"{series['axis']}, {series['kept']}"


def at_each(points: Iterable[tuple[int, float]]) -> str:
    return " · ".join(f"{at:,}: {number(cost)}" for at, cost in points)


def marked(series: Mapping[str, Any]) -> str:
    return f"**{series['verdict']}**" if growth.grows(series) else str(series["verdict"])


def times_told(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def reached(verdict: goals.Verdict) -> str:
    """The verdict in words, with how sure it is."""
    if verdict.reached is None:
        return "–"
    good, all_rounds = verdict.rounds
    if verdict.reached:
        return "yes" if good == all_rounds else f"yes, in {good} of {all_rounds} rounds"
    words = ["**no**"]
    if verdict.beyond:
        words.append(f"by {percent(verdict.beyond)}")
    if good:
        words.append(f"but in {good} of {all_rounds} rounds")
    return ", ".join(words)


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


def spread(figure: Figure | None) -> str:
    return percent(figure.spread) if figure and len(figure.values) > 1 else "–"


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
