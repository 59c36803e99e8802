"""The chart under docs/nats-server.conf: what workers, provision Job and `helm test` are rendered to is run there."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aichats_worker.simulator.server import start_simulator
from tests.broker.secured import Secured
from tests.chart.conftest import Objects, Render, deployment, the
from tests.commands.test_commands import Ran, start
from tests.processes import WorkerProcess, output_of

pytestmark = pytest.mark.timeout(240)  # a server, a worker and two commands, on a machine that does other things
RUN_TIMEOUT_SECONDS = 90.0
MOUNTED = "/etc/aichats/"


def identity(user: str) -> dict[str, Any]:
    """A user's keys, all in one Secret, `nats`."""
    keys = {"NATS_NKEY": f"{user}.nk", "NATS_CERT": f"{user}.pem", "NATS_KEY": f"{user}-key.pem"}
    return {name: {"name": "nats", "key": key} for name, key in keys.items()}


def least_rights(site: Secured) -> dict[str, Any]:
    """Values as helm/README.md has them."""
    return {
        "settings": {
            "NATS_URL": site.server.url,
            "NATS_INBOX_PREFIX": "_INBOX.worker",
            "WORKER_STRICT_TENANT_INBOX": "on",
            "AICHATS_URL": site.simulator.url,
        },
        "secrets": identity("worker") | {"NATS_CA": {"name": "nats", "key": "ca.pem"}},
        "provision": {"settings": {"NATS_INBOX_PREFIX": "_INBOX.operator"}, "secrets": identity("operator")},
        "test": {
            "tenant": "teama",
            "settings": {"NATS_INBOX_PREFIX": "_INBOX.teama"},
            "secrets": identity("teama"),
        },
    }


def environment(pod: dict[str, Any], directory: Path) -> dict[str, str]:
    """A rendered pod's variables; its mounted keys are the files of the same names in `directory`."""
    (secrets,) = [volume for volume in pod["volumes"] if volume["name"] == "secrets"]
    items = [item for source in secrets["projected"]["sources"] for item in source["secret"]["items"]]
    files = {MOUNTED + item["path"]: str(directory / item["key"]) for item in items}
    return {
        variable["name"]: files.get(variable["value"], variable["value"]) for variable in pod["containers"][0]["env"]
    }


async def run(pod: dict[str, Any], site: Secured) -> Ran:
    """What a pod runs, to its end."""
    process = await start(*pod["containers"][0]["args"], **environment(pod, site.directory))  # type: ignore[arg-type]
    out, err = await output_of(process, RUN_TIMEOUT_SECONDS)
    assert process.returncode is not None
    return Ran(process.returncode, out, err.decode())


def job(objects: Objects) -> dict[str, Any]:
    return the(objects, "Job")["spec"]["template"]["spec"]  # type: ignore[no-any-return]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Secured]:
    """The sample's server, with nothing made in it."""
    async with await start_simulator() as simulator:
        secured = Secured(tmp_path, simulator, new_acks=False)
        secured.server.start()
        yield secured
        secured.server.stop()


async def test_install_and_helm_test_succeed_with_an_identity_for_each_pod(render: Render, site: Secured) -> None:
    objects = render(least_rights(site))

    # 1. The hook makes the streams, as the operator.
    provisioned = await run(job(objects), site)
    assert provisioned.status == 0, provisioned.err
    assert b"AIJOBS: make it" in provisioned.out

    # 2. A worker serves, as itself.
    settings = environment(deployment(objects)["spec"]["template"]["spec"], site.directory)
    del settings["WORKER_HTTP_PORT"]  # the pod's own network has it free
    worker = WorkerProcess(site.directory, settings)
    try:
        await (await worker.start().ready()).serving_jobs()

        # 3. `helm test` asks, as a tenant.
        asked = await run(the(objects, "Pod", "-ask")["spec"], site)
        assert asked.status == 0, asked.err
        assert asked.out.startswith(b"Hello")
    finally:
        worker.kill()


async def test_with_the_workers_identity_alone_the_hook_says_which_right_is_missing(
    render: Render, site: Secured
) -> None:
    values = least_rights(site)
    values.pop("provision")
    ran = await run(job(render(values)), site)
    assert ran.status == 1
    assert 'no right for publish to "$js.api.stream.' in ran.err.lower()


def test_an_own_login_replaces_the_workers_whole_login(render: Render) -> None:
    secret = {"name": "nats", "key": "x"}
    objects = render(
        {
            "settings": {"NATS_USER": "worker"},
            "secrets": {"NATS_PASSWORD": secret, "NATS_CA": secret, "NATS_CERT": secret, "NATS_KEY": secret},
            "provision": {"secrets": {"NATS_CREDS": secret}},
            "test": {"settings": {"NATS_USER": "teama"}, "secrets": {"NATS_PASSWORD": secret}},
        }
    )

    def names(pod: dict[str, Any]) -> set[str]:
        return {each["name"] for each in pod["containers"][0]["env"] if each["name"].startswith("NATS_")}

    shared = {"NATS_URL", "NATS_CA", "NATS_CERT", "NATS_KEY"}
    assert names(job(objects)) == shared | {"NATS_CREDS"}
    asking = the(objects, "Pod", "-ask")["spec"]
    assert names(asking) == shared | {"NATS_USER", "NATS_PASSWORD"}
    assert {"name": "NATS_USER", "value": "teama"} in asking["containers"][0]["env"]
