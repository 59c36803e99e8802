"""One request as it came over NATS: pure, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nats.aio.msg import Msg

from aichats_schemas.subjects import MSG_ID, REPLY_TO, Kind, Mode, is_token, new_id
from aichats_worker.telemetry.account import Account


@dataclass(slots=True)  # not frozen: one for each request
class Call:
    """One request as it came; what its body holds, and whether it is valid, is found out by the executor.

    Nobody changes it. To make one that is frozen takes four times as long, and so for all that each request has one of.

    Attributes:
        mode: `req`, `ask` or `job`.
        kind: `text` or `image`.
        tenant: From the subject.
        id: The request's id; one of the worker's own where none, or no valid one, was sent.
        reply_to: Where the events go; empty for a job that names none.
        body: The message's body.
        headers: The message's headers, exact case.
        attempt: 1 in core; of a job the number that its record says, 0 before.
        problem: What is wrong with the subject or the id, or None.
    """

    mode: Mode
    kind: Kind
    tenant: str
    id: str
    reply_to: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    attempt: int = 1
    problem: str | None = None

    def account(self) -> Account:
        """Begin the account of this call."""
        return Account(
            mode=self.mode,
            kind=self.kind,
            tenant=self.tenant if self.problem is None else None,
            id=self.id,
            attempt=self.attempt,
            correlation_id=self.headers.get("correlation_id"),
        )

    def of_attempt(self, attempt: int) -> "Call":
        """Return the same call as another attempt."""
        return replace(self, attempt=attempt)


def core_call(message: Msg, mode: Mode, kind: Kind) -> Call:
    """Read a `req` or an `ask`: its tenant is the last token of the subject, its id the `Nats-Msg-Id` header."""
    tenant = message.subject.rpartition(".")[2]
    headers = message.headers or {}
    request_id = headers.get(MSG_ID) or None
    problem = _token_problem(tenant, request_id)
    return Call(
        mode=mode,
        kind=kind,
        tenant=tenant,
        id=request_id if request_id is not None and (problem is None or is_token(request_id)) else new_id(),
        reply_to=message.reply,
        body=message.data,
        headers=headers,
        problem=problem,
    )


def job_call(subject: str, kind: Kind, *, headers: Mapping[str, str], body: bytes) -> Call:
    """Read a job by its parts: tenant and id are the last two tokens of its subject, the reply subject is a header.

    Its attempt is 0 until its record says which one this is.
    """
    tenant, request_id = subject.split(".")[-2:]
    return Call(
        mode="job",
        kind=kind,
        tenant=tenant,
        id=request_id if is_token(request_id) else new_id(),
        reply_to=headers.get(REPLY_TO, ""),
        body=body,
        headers=headers,
        attempt=0,
        problem=_token_problem(tenant, request_id),
    )


def _token_problem(tenant: str, request_id: str | None) -> str | None:
    """Say what is wrong with them; where there is no id, the worker's own is none of the requester's mistakes."""
    if is_token(tenant) and (request_id is None or is_token(request_id)):
        return None
    sent = (("tenant", tenant), ("id", request_id))
    wrong = [name for name, value in sent if value is not None and not is_token(value)]
    return f"{' and '.join(wrong)}: must be 1 to 64 of A-Z, a-z, 0-9, _ and -"
