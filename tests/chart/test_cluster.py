"""What tests/cluster puts on a cluster, held against Kubernetes's schemas here, where there is none."""

from pathlib import Path
from typing import Any

import pytest
from kubernetes_validate.utils import validate

from tests.chart.conftest import Render, container, deployment
from tests.chart.test_objects import check
from tests.cluster import objects, telling
from tests.cluster.conftest import Cluster, StepFailed


def test_the_objects_beside_the_chart_pass_the_strict_schemas() -> None:
    for each in [objects.namespace("n"), *objects.nats(), objects.secret("x")]:
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


def test_annotations_replace_the_workers_alone_or_the_simulator_as_well(render: Render) -> None:
    def pods(**more: Any) -> dict[str, Any]:
        found = render(objects.values("aichats-worker", **more), release=objects.RELEASE)
        return {each["metadata"]["name"]: each["spec"]["template"] for each in found if each["kind"] == "Deployment"}

    worker = f"{objects.RELEASE}-aichats-worker"
    annotations = {"tests/upgraded": "yes"}
    before, workers = pods(), pods(podAnnotations=annotations)
    everything = pods(podAnnotations=annotations, smallPods={"annotations": annotations})
    assert {name for name in before if before[name] != workers[name]} == {worker}
    assert {name for name in before if before[name] != everything[name]} == {worker, f"{worker}-simulator"}


def pod(name: str, state: dict[str, Any], **more: Any) -> dict[str, Any]:
    """As the API server has it, shortened."""
    status = {"name": "worker", "state": state} | more
    return {"metadata": {"name": name}, "status": {"phase": "Pending", "containerStatuses": [status]}}


PULLS = pod("w-1", {"waiting": {"reason": "ContainerCreating"}})
NO_IMAGE = pod("w-2", {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x"'}})
CRASHES = pod(
    "w-3",
    {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
    restartCount=2,
    lastState={"terminated": {"exitCode": 2, "message": "NATS_URL must be …\n"}},
)
NO_ROOM = {
    "metadata": {"name": "w-4", "deletionTimestamp": "2026-01-01T00:00:00Z"},
    "status": {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}],
    },
}


def test_a_step_is_given_up_where_waiting_does_not_help() -> None:
    assert telling.hopeless([PULLS, NO_ROOM]) == ""
    said = telling.hopeless([PULLS, NO_IMAGE, CRASHES]).splitlines()
    assert said == [
        'w-2/worker: waiting, ImagePullBackOff, Back-off pulling image "x"',
        "w-3/worker: waiting, CrashLoopBackOff, back-off 20s, 2 restarts, before that status 2, NATS_URL must be …",
    ]


def test_a_step_that_fails_tells_of_pods_and_warnings() -> None:
    event = {"type": "Warning", "reason": "FailedMount", "message": 'secret "nats" not found'}
    about = {"involvedObject": {"kind": "Pod", "name": "w-1"}}
    said = telling.told([PULLS, NO_ROOM], [event | about, {"type": "Normal", "reason": "Pulled"}])
    assert "w-1: Pending\n" in said
    assert "worker: waiting, ContainerCreating" in said
    assert "w-4: Pending, going, 0/1 nodes are available" in said
    assert said.endswith('Pod/w-1: FailedMount: secret "nats" not found')


def test_a_step_says_what_its_command_said_and_ends_with_it(tmp_path: Path) -> None:
    """The commands are the real ones; there is no cluster behind them."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    nowhere = Cluster(str(kubeconfig), "aichats-worker", "n")
    assert "Client Version" in nowhere.kubectl("version", "--client")
    with pytest.raises(StepFailed, match=r"(?s)refused.*pods:.*warnings:"):
        nowhere.kubectl("--server", "http://127.0.0.1:1", "get", "pods")
