"""The pages that are made from the code are up to date."""

from collections.abc import Callable

import pytest

from aichats_worker.settings import Settings
from tests.conftest import StartWorker
from tests.documents import written
from tests.jobs.test_jobs import serving_jobs
from tests.processes import NatsServer


@pytest.mark.parametrize("name", written.PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert (written.DOCS / name).read_text("utf-8") == written.PAGES[name](), "run make docs"


async def test_the_page_of_metrics_has_every_metric_of_a_worker(
    own_nats_server: Callable[..., NatsServer], start_worker: StartWorker
) -> None:
    worker = await start_worker(nats_url=own_nats_server().url, worker_jobs=True)
    await serving_jobs(worker)
    page = (written.DOCS / "metrics.md").read_text("utf-8")
    assert page == written.metrics_page(worker.telemetry.registry), "run make docs"


def test_every_setting_has_a_group_and_so_a_place() -> None:
    grouped = [name for prefix in written.GROUPS for name, _ in written.described(prefix)]
    assert sorted(grouped) == sorted(name.upper() for name in Settings.model_fields)
    assert all(says.strip() for prefix in written.GROUPS for _, says in written.described(prefix))
