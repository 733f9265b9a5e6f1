"""Bar charts as SVG, written by hand: readable on light and dark pages, with units on their axes. It knows figures only."""

import math
from dataclasses import dataclass
from html import escape

from .figures import Figure, number

CHARACTER_WIDTH, BAR_WIDTH, VALUE_WIDTH = 7, 400, 90  # the first of a wide font
BAR_HEIGHT, GAP, GROUP_GAP, TOP, BOTTOM = 16, 6, 26, 44, 44
STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 14px }
.quiet { fill: #59636e }
.bar { fill: #8c959f }
.own { fill: #0969da }
.line { stroke: #d1d9e0; stroke-width: 1 }
.range { stroke: #1f2328; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .quiet { fill: #9198a1 }
  .bar { fill: #656c76 }
  .own { fill: #4493f8 }
  .line { stroke: #3d444d }
  .range { stroke: #f0f6fc }
}
"""


@dataclass(frozen=True)
class Bar:
    label: str
    figure: Figure
    own: bool  # one of ours


@dataclass(frozen=True)
class Group:
    label: str
    bars: list[Bar]


def ticks(high: float) -> list[float]:
    """From zero to at least `high`, at round places, three to six of them and the zero."""
    rough = high / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    count = math.ceil(high / step * 0.999999)
    return [step * n for n in range(count + 1)]


def bars(title: str, unit: str, groups: list[Group]) -> str:
    """Horizontal bars of medians, beside their names, with lines from the lowest to the highest round."""
    highest = max(bar.figure.high for group in groups for bar in group.bars)
    places = ticks(highest if highest > 0 else 1.0)
    scale = BAR_WIDTH / places[-1]
    left = 16 + CHARACTER_WIDTH * max(len(bar.label) for group in groups for bar in group.bars)
    parts: list[str] = []
    grid: list[str] = []
    y = TOP
    for group in groups:
        if group.label:
            parts.append(text(8, y + 12, group.label, "quiet"))
            y += BAR_HEIGHT + GAP
        end = y + len(group.bars) * (BAR_HEIGHT + GAP)
        # Not across the names of groups.
        for x in (left + place * scale for place in places):
            grid.append(f'<line class="line" x1="{x:.1f}" y1="{y - GAP / 2}" x2="{x:.1f}" y2="{end - GAP / 2}"/>')
        for bar in group.bars:
            parts += drawn(bar, y, left, scale)
            y += BAR_HEIGHT + GAP
        y += GROUP_GAP - GAP
    bottom = y - GROUP_GAP + GAP
    height, width = bottom + BOTTOM, left + BAR_WIDTH + VALUE_WIDTH
    for place in places:
        x = left + place * scale
        grid.append(text(x, bottom + 15, f"{place:g}", "quiet", anchor="middle"))
    if any(len(bar.figure.values) > 1 for group in groups for bar in group.bars):
        unit += " (line: the lowest round to the highest)"
    axis = text(left + BAR_WIDTH / 2, bottom + 33, unit, "quiet", anchor="middle")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" aria-label="{escape(title)}">',
            f"<style>\n{STYLE}</style>",
            text(8, 20, title, "title"),
            *grid,
            *parts,
            axis,
            "</svg>\n",
        ]
    )


def drawn(bar: Bar, y: float, left: float, scale: float) -> list[str]:
    """One bar: its name, its median, and the range of its rounds."""
    middle = y + BAR_HEIGHT / 2
    low, high = (left + max(0.0, value) * scale for value in (bar.figure.low, bar.figure.high))
    length = max(0.0, bar.figure.median) * scale
    return [
        text(left - 8, middle + 4, bar.label, "", anchor="end"),
        f'<rect class="{"own" if bar.own else "bar"}" x="{left}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}"/>',
        f'<line class="range" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>',
        text(max(high, left + length) + 6, middle + 4, number(bar.figure.median), ""),
    ]


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
