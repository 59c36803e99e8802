"""A job is stored, or the reason why not."""

from typing import Any, Final

from nats.aio.client import Client as NatsClient
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import APIError, NoStreamResponseError

from aichats_client.errors import ClientError, JobExists, NoWorker, QueueFull, Stalled
from aichats_client.stream import SUBMIT_TIMEOUT_SECONDS, encoded, fitting

# One code for both; the description tells them apart.
REFUSED: Final = 10077
_SUBJECT_TAKEN: Final = "per subject"


async def submit_job(nc: NatsClient, subject: str, body: dict[str, Any]) -> None:
    """Publish a job, and wait until the broker has stored it.

    Raises:
        JobExists: A job of this id is queued or running.
        QueueFull: The queue takes no more.
        NoWorker: No stream takes jobs here.
        Stalled: No word whether it is stored.
    """
    job_id = subject.rpartition(".")[2]
    try:
        await nc.jetstream().publish(subject, fitting(nc, encoded(body)), timeout=SUBMIT_TIMEOUT_SECONDS)
    except APIError as error:
        raise _refused(error, job_id) from None
    except (NoStreamResponseError, NoRespondersError):
        raise NoWorker(
            f"no stream takes jobs on {subject}: a worker makes it where the broker has JetStream, "
            "or `aichats-worker provision`"
        ) from None
    except (NatsTimeoutError, TimeoutError):
        raise Stalled(
            f"no word within {SUBMIT_TIMEOUT_SECONDS:g} s whether job {job_id} is stored: submit it again under this "
            "id, which runs nothing twice"
        ) from None


def _refused(error: APIError, job_id: str) -> ClientError:
    says = str(error.description or "")
    if error.err_code == REFUSED and _SUBJECT_TAKEN in says:
        return JobExists(job_id)
    if error.err_code == REFUSED:
        return QueueFull(f"the queue takes no more jobs ({says}): try again later")
    return ClientError(f"the queue refuses the job: {says}")
