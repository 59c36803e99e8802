"""A namespace of its own on the cluster of K8S_TEST_KUBECONFIG, with NATS in it; it is removed at the end.

K8S_TEST_IMAGE is the worker's image as the cluster can pull it, K8S_TEST_NEXT_IMAGE another one, which a release is
upgraded to; the same image under another tag will do.
"""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from tests.cluster import objects, telling
from tests.processes import ROOT, free_port, wait_for_port

# One step on the cluster: pulling images and draining pods included.
STEP_SECONDS = 300


# Between two looks at a step that takes its time.
LOOK_SECONDS = 2.0


class StepFailed(Exception):
    """What kubectl or helm said, and what the namespace says."""


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

    def upgrade(self, image: str = "", **more: Any) -> None:
        """Install the chart, or upgrade it, to the tests' image or another, and wait until it is ready."""
        chart = str(ROOT / "helm")
        arguments = ["upgrade", "--install", objects.RELEASE, chart, "--values", "-", "--wait"]
        values = objects.values(image or self.image, **more)
        self.helm(*arguments, "--timeout", f"{STEP_SECONDS - 30}s", given=values)

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

    def told(self) -> str:
        """What the namespace says of its pods, with the warnings."""
        return telling.told(self._items("pods"), self._items("events"))

    def _items(self, kind: str) -> list[dict[str, Any]]:
        command = self.command("kubectl", ["get", kind, "--output", "json"])
        done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS, check=False)
        found: list[dict[str, Any]] = json.loads(done.stdout)["items"] if done.returncode == 0 else []
        return found

    def _run(self, tool: str, arguments: Sequence[str], given: Any) -> str:
        """To its end, or until the namespace says that there is no hope."""
        command = self.command(tool, arguments)
        pipe = subprocess.PIPE
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
            subprocess.Popen(command, stdin=pipe, stdout=out, stderr=err, text=True) as process,
        ):
            try:
                reason = self._followed(process, json.dumps(given) if given is not None else "")
            finally:
                process.kill()  # nothing, where it has ended
            out.seek(0)
            err.seek(0)
            if reason or process.returncode:
                raise StepFailed(f"{reason or err.read()}\n{self.told()}")
            return out.read()

    def _followed(self, process: subprocess.Popen[str], given: str) -> str:
        """Wait for a step; why it was given up, or nothing."""
        assert process.stdin is not None
        with process.stdin as stdin, suppress(BrokenPipeError):
            stdin.write(given)
        deadline, before = time.monotonic() + STEP_SECONDS, ""
        while time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
                return ""
            # Twice the same: a secret that comes a moment later than its pod is no failure.
            now = telling.hopeless(self._items("pods"))
            if now and now == before:
                return now
            before = now
        return f"not done after {STEP_SECONDS} s"


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
