"""docs/performance.md and its picture, from what was measured. Pure but for writing them."""

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final, Protocol

PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
PICTURE: Final = PAGE.with_suffix(".svg")
BEGIN: Final = "<!-- measured -->"
END: Final = "<!-- end of what was measured -->"
RAW: Final = "raw"
COLOURS: Final = {"raw": "#9aa0a6", "raw, joined": "#5f6368", "FastStream, joined": "#c58af9", "worker": "#1a73e8"}

_HOW: Final = "CPU time for each unit divided by raw's in the same round; in brackets what it was."
_COSTS: Final = (
    "CPU for a delta at 50 a second, or for a short request where that is said: the worker with all of these over the "
    "worker without the one named. Traces: in one worker, requests whose sender has them kept over others, in turn."
)


class Row(Protocol):
    """What was found of one peer under one load in one round."""

    @property
    def cpu(self) -> float:
        """Seconds for each unit."""

    @property
    def rate(self) -> float:
        """Units in a second."""

    @property
    def first(self) -> float:
        """Seconds to the first event."""


@dataclass(frozen=True)
class Comparison:
    """All peers in one dialect: for each load and peer the median CPU in microseconds, and its ratio to raw's."""

    dialect: str
    loads: list[str]
    cpu: Mapping[str, list[float]]
    ratio: Mapping[str, list[float]]
    first: Mapping[str, float]
    rate: Mapping[str, float]
    idle: Mapping[str, float]


def compared(
    dialect: str, loads: list[str], found: Mapping[str, Sequence[Sequence[Row]]], idle: Mapping[str, Sequence[float]]
) -> Comparison:
    """Take medians over the rounds; of ratios within each round, so that what slows a whole round down cancels out."""

    def over(name: str, load: int, read: str) -> list[float]:
        return [getattr(rows[load], read) for rows in found[name]]

    def ratio(name: str, load: int, read: str = "cpu") -> float:
        pairs = zip(over(name, load, read), over(RAW, load, read), strict=True)
        return statistics.median(one / raw for one, raw in pairs if raw)

    columns = range(len(loads))
    return Comparison(
        dialect,
        loads,
        {name: [statistics.median(over(name, load, "cpu")) * 1e6 for load in columns] for name in found},
        {name: [ratio(name, load) for load in columns] for name in found},
        {name: ratio(name, loads.index("first delta, one at a time"), "first") for name in found},
        {name: ratio(name, loads.index("deltas in bursts"), "rate") for name in found},
        {name: statistics.median(values) for name, values in idle.items()},
    )


def table(one: Comparison) -> str:
    """Return a comparison as Markdown: CPU for each unit, divided by raw's; in brackets microseconds."""
    head = ["", *one.cpu]
    rows = [
        [load, *(f"{one.ratio[name][at]:.2f} ({one.cpu[name][at]:,.0f} µs)" for name in one.cpu)]
        for at, load in enumerate(one.loads)
    ]
    rows.append(["deltas in bursts, rate ÷ raw's", *(f"{one.rate[name]:.1f}" for name in one.cpu)])
    rows.append(["time to the first delta ÷ raw's", *(f"{one.first[name]:.2f}" for name in one.cpu)])
    rows.append(["resident when idle, MB", *(f"{one.idle[name]:.0f}" for name in one.cpu)])
    lines = [" | ".join(row) for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(f"| {line} |" for line in lines)


def picture(one: Comparison) -> str:
    """Return a comparison as an SVG of bars: CPU for each unit, divided by raw's."""
    parts, top, width = [], 40, 720
    longest = max(max(values) for values in one.ratio.values())
    for at, load in enumerate(one.loads):
        parts.append(f'<text x="10" y="{top + 12}" font-weight="bold">{escape(load)}</text>')
        top += 20
        for name in one.ratio:
            value = one.ratio[name][at]
            length = value / longest * (width - 260)
            parts.append(f'<text x="150" y="{top + 11}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="160" y="{top}" width="{length:.0f}" height="14" fill="{COLOURS[name]}"/>')
            parts.append(f'<text x="{165 + length:.0f}" y="{top + 11}">{value:.2f}</text>')
            top += 18
        top += 10
    title = f"CPU for each, divided by a hand-written worker's ({one.dialect})"
    style = "font-family:sans-serif;font-size:12px"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" style="{style};background:#fff">'
        f"<title>{title}</title>"
        f'<text x="10" y="22" font-size="14">{title}</text>{"".join(parts)}</svg>\n'
    )


def write(tables: Sequence[Comparison], costs: Mapping[str, float], jobs: str, rounds: int) -> None:
    """Put what was measured between the page's two marks, and draw its picture."""
    when = time.strftime("%Y-%m-%d")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    load = os.getloadavg()[1]
    parts = [
        f"{when}; {machine}; load average {load:.1f}; {rounds} interleaved rounds, medians. {_HOW}",
        *(f"### {one.dialect}\n\n{table(one)}" for one in tables),
        f"![CPU for each unit, divided by raw's]({PICTURE.name})",
        f"### Jobs\n\n{jobs}",
        f"### What a guarantee costs\n\n{_COSTS}\n\n"
        + "\n".join(["| | with ÷ without |", "| --- | --- |", *(f"| {n} | {c:.2f} |" for n, c in costs.items())]),
    ]
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}", "utf-8")
    PICTURE.write_text(picture(tables[0]), "utf-8")
