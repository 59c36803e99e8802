"""docs/metrics.md, whose table is made from the metrics themselves; `make metrics-docs` writes it."""

import asyncio
from pathlib import Path
from typing import Any

from prometheus_client import Metric

from aichats_worker.app import App
from aichats_worker.settings import load_settings

PAGE = Path(__file__).parent.parent.parent / "docs" / "metrics.md"
BEGIN, END = "<!-- written by make metrics-docs -->\n", "<!-- end -->"
OURS, OTHERS = "aichats_", ("faststream_", "process_")


async def all_metrics() -> list[tuple[Metric, tuple[str, ...]]]:
    """Every metric that a worker shows, with the names of its labels."""
    app = App(load_settings(worker_providers="aichats,openai", worker_http_port=0))
    try:
        registry = app.telemetry.registry
        labels: dict[str, tuple[str, ...]] = {}
        for collector, names in registry._collector_to_names.items():
            labels |= dict.fromkeys(names, getattr(collector, "_labelnames", ()))
        return [(each, labels.get(each.name) or _labels_of(each)) for each in registry.collect()]
    finally:
        await app.provider.close()


def _labels_of(metric: Any) -> tuple[str, ...]:
    named = getattr(metric, "_labelnames", None)
    found = named if named is not None else metric.samples[0].labels if metric.samples else ()
    return tuple(label for label in found if label != "le")


def rows(metrics: list[tuple[Metric, tuple[str, ...]]]) -> list[str]:
    """A row for each metric: ours in the order of the code, then FastStream's and the process's."""
    ours = [each for each in metrics if each[0].name.startswith(OURS)]
    others = sorted((each for each in metrics if not each[0].name.startswith(OURS)), key=lambda each: each[0].name)
    return [_row(metric, labels) for metric, labels in ours + others]


def _row(metric: Metric, labels: tuple[str, ...]) -> str:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return f"| `{name}` | {metric.type} | {', '.join(f'`{label}`' for label in labels)} | {metric.documentation} |"


async def page() -> str:
    """docs/metrics.md as it should be."""
    before, rest = PAGE.read_text().split(BEGIN)
    head = "| Metric | Type | Labels | Meaning |\n| --- | --- | --- | --- |\n"
    return before + BEGIN + head + "\n".join(rows(await all_metrics())) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(asyncio.run(page()))
