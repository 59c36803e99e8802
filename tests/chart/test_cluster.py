"""What tests/cluster puts on a cluster, held against Kubernetes's schemas here, where there is none."""

from typing import Any

import pytest
from kubernetes_validate.utils import validate

from tests.chart.conftest import Render, container, deployment
from tests.chart.test_objects import check
from tests.cluster import objects


def test_the_objects_beside_the_chart_pass_the_strict_schemas() -> None:
    for each in [objects.namespace("n"), *objects.nats()]:
        validate(each, "1.37", strict=True)


@pytest.mark.parametrize(
    ("image", "rendered"),
    [
        ("aichats-worker", "aichats-worker:0.1.0"),
        ("host:5000/team/aichats-worker:dev", "host:5000/team/aichats-worker:dev"),
        ("host:5000/aichats-worker", "host:5000/aichats-worker:0.1.0"),
        (f"aichats-worker@sha256:{'a' * 64}", f"aichats-worker@sha256:{'a' * 64}"),
    ],
)
def test_the_charts_values_are_right(render: Render, image: str, rendered: str) -> None:
    found = render(objects.values(image), release=objects.RELEASE)
    check(found, "1.37.0")
    assert container(found)["image"] == rendered
    assert deployment(found)["metadata"]["name"] == f"{objects.RELEASE}-aichats-worker"
    assert deployment(found)["spec"]["replicas"] == 2


def test_an_upgrade_replaces_the_workers_and_not_the_simulator(render: Render) -> None:
    def pods(**more: Any) -> dict[str, Any]:
        found = render(objects.values("aichats-worker", **more), release=objects.RELEASE)
        return {each["metadata"]["name"]: each["spec"]["template"] for each in found if each["kind"] == "Deployment"}

    before, after = pods(), pods(podAnnotations={"tests/upgraded": "yes"})
    assert [name for name in before if before[name] != after[name]] == [f"{objects.RELEASE}-aichats-worker"]
