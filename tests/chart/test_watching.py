"""What the chart brings for whoever watches, and scaling by what the metrics say."""

import json
from typing import Any

import pytest
import yaml

from tests.chart.conftest import ChartRefused, Render, the
from tests.chart.written import CHART

PROMETHEUS = "http://prometheus.monitoring:9090"
SLOTS = {"WORKER_CONCURRENCY_MAX": 20, "WORKER_IMAGE_CONCURRENCY_MAX": 4}


def test_the_rules_are_the_file_as_it_is(render: Render) -> None:
    assert not [each for each in render() if each["kind"] == "PrometheusRule"]
    rule = the(render({"prometheusRule": {"enabled": True, "labels": {"release": "prom"}}}), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prom"


def test_the_dashboard_is_the_file_as_it_is_under_the_label_that_grafana_looks_for(render: Render) -> None:
    assert not [each for each in render() if each["kind"] == "ConfigMap"]
    values = {"dashboard": {"enabled": True, "annotations": {"grafana_folder": "AI"}}}
    made = the(render(values), "ConfigMap", "-dashboard")
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["annotations"] == {"grafana_folder": "AI"}
    assert json.loads(made["data"]["aichats-worker.json"]) == json.loads(
        (CHART / "files" / "dashboard.json").read_text()
    )


def test_keda_sees_core_load_where_it_has_a_prometheus(render: Render) -> None:
    def triggers(keda: dict[str, Any]) -> list[dict[str, Any]]:
        values = {"scaling": {"mode": "keda", "keda": keda}, "settings": SLOTS}
        found: list[dict[str, Any]] = the(render(values), "ScaledObject")["spec"]["triggers"]
        return found

    assert {each["type"] for each in triggers({})} == {"nats-jetstream"}
    made = {each["name"]: each["metadata"] for each in triggers({"prometheus": PROMETHEUS})}
    assert list(made) == ["text-jobs", "image-jobs", "text-slots", "image-slots"]
    assert made["text-slots"] == {
        "serverAddress": PROMETHEUS,
        "query": 'sum(aichats_slots_used{kind="text", namespace="ai", pod=~"chat-aichats-worker-[a-z0-9]+-[a-z0-9]+"})',
        "threshold": "15",
    }
    assert made["image-slots"]["threshold"] == "3"


def test_the_hpa_goes_by_slots_beside_cpu_where_it_is_asked_to(render: Render) -> None:
    def metrics(hpa: dict[str, Any]) -> list[dict[str, Any]]:
        values = {"scaling": {"mode": "hpa", "hpa": hpa}, "settings": SLOTS}
        found: list[dict[str, Any]] = the(render(values), "HorizontalPodAutoscaler")["spec"]["metrics"]
        return found

    assert [each["type"] for each in metrics({})] == ["Resource"]
    cpu, text, image = metrics({"slotsPercent": 75})
    assert cpu["type"] == "Resource"
    assert text["pods"]["metric"] == {"name": "aichats_slots_used", "selector": {"matchLabels": {"kind": "text"}}}
    assert [each["pods"]["target"] for each in (text, image)] == [
        {"type": "AverageValue", "averageValue": "15"},
        {"type": "AverageValue", "averageValue": "3"},
    ]


@pytest.mark.parametrize(
    "scaling", [{"mode": "keda", "keda": {"prometheus": PROMETHEUS}}, {"mode": "hpa", "hpa": {"slotsPercent": 75}}]
)
def test_scaling_by_metrics_is_refused_where_there_are_none(render: Render, scaling: dict[str, Any]) -> None:
    with pytest.raises(ChartRefused, match="WORKER_HTTP_PORT 0 turns them off"):
        render({"scaling": scaling, "settings": {"WORKER_HTTP_PORT": 0}})
