"""A namespace of its own on the cluster of K8S_TEST_KUBECONFIG, with NATS in it; it is removed at the end.

K8S_TEST_IMAGE is the worker's image as the cluster can pull it.
"""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from tests.cluster import objects
from tests.processes import ROOT, free_port, wait_for_port

# One step on the cluster: pulling images and draining pods included.
STEP_SECONDS = 300


class StepFailed(Exception):
    """What kubectl or helm said."""


@dataclass(frozen=True)
class Cluster:
    """kubectl and helm in the tests' namespace."""

    kubeconfig: str
    image: str
    namespace: str

    def kubectl(self, *arguments: str, given: Any = None) -> str:
        """Run kubectl; `given` becomes its standard input as JSON."""
        return self._run("kubectl", arguments, given)

    def helm(self, *arguments: str, given: Any = None) -> str:
        """Run helm likewise."""
        return self._run("helm", arguments, given)

    def upgrade(self, **more: Any) -> None:
        """Install the chart, or upgrade it, and wait until it is ready."""
        chart = str(ROOT / "helm")
        arguments = ["upgrade", "--install", objects.RELEASE, chart, "--values", "-", "--wait"]
        self.helm(*arguments, "--timeout", f"{STEP_SECONDS - 30}s", given=objects.values(self.image, **more))

    def workers(self) -> list[str]:
        """The names of the workers' pods that are not on their way out."""
        chosen = f"app.kubernetes.io/instance={objects.RELEASE},app.kubernetes.io/component=worker"
        pods = json.loads(self.kubectl("get", "pods", "--selector", chosen, "--output", "json"))["items"]
        return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def command(self, tool: str, arguments: Sequence[str]) -> list[str]:
        found = shutil.which(tool, path=f"{ROOT / '.tools'}{os.pathsep}{os.environ['PATH']}")
        if found is None:
            pytest.exit(f"{tool} is missing: install it or put it into .tools/", returncode=1)
        return [found, "--kubeconfig", self.kubeconfig, "--namespace", self.namespace, *arguments]

    def _run(self, tool: str, arguments: Sequence[str], given: Any) -> str:
        done = subprocess.run(
            self.command(tool, arguments),
            input=json.dumps(given) if given is not None else "",
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )
        if done.returncode:
            raise StepFailed(done.stderr)
        return done.stdout


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The namespace, with NATS ready in it."""
    kubeconfig = os.environ.get("K8S_TEST_KUBECONFIG")
    if not kubeconfig:
        pytest.skip("K8S_TEST_KUBECONFIG is not set: it names the kubeconfig of a cluster for these tests")
    image = os.environ.get("K8S_TEST_IMAGE")
    if not image:
        pytest.exit("K8S_TEST_IMAGE is not set: it names the worker's image as that cluster can pull it", returncode=1)
    name = f"aichats-test-{secrets.token_hex(4)}"
    made = Cluster(str(Path(kubeconfig).absolute()), image, name)
    made.kubectl("create", "--filename", "-", given=objects.namespace(name))
    try:
        for each in objects.nats():
            made.kubectl("apply", "--filename", "-", given=each)
        made.kubectl("rollout", "status", "deployment/nats", f"--timeout={STEP_SECONDS - 30}s")
        yield made
    finally:
        made.kubectl("delete", "namespace", name, f"--timeout={STEP_SECONDS - 30}s")


@pytest.fixture(scope="session")
def release(cluster: Cluster) -> Cluster:
    """The chart, installed."""
    cluster.upgrade()
    return cluster


@pytest.fixture
def nats_url(cluster: Cluster) -> Iterator[str]:
    """The namespace's NATS, forwarded to this machine."""
    port = free_port()
    command = cluster.command("kubectl", ["port-forward", "service/nats", f"{port}:4222"])
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as forward:
        try:
            wait_for_port(port, forward)
            yield f"nats://127.0.0.1:{port}"
        finally:
            forward.terminate()


@pytest.fixture
async def nc(nats_url: str) -> AsyncIterator[Client]:
    """A requester outside the cluster."""
    async with await nats.connect(nats_url) as client:
        yield client
