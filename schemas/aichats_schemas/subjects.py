"""Every subject, header and stream name of the contract, once."""

import os
import re
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["text", "image"]
CoreMode = Literal["req", "ask"]
Mode = Literal["req", "ask", "job"]

PROTOCOL: Final = "ai.v1"
QUEUE: Final = "ai-workers"
SERVICE: Final = "ai-worker"
KINDS: Final[tuple[Kind, ...]] = ("text", "image")

# Request headers, exact case.
MSG_ID: Final = "Nats-Msg-Id"
REPLY_TO: Final = "reply_to"
# Headers of an `error` event.
SERVICE_ERROR: Final = "Nats-Service-Error"
SERVICE_ERROR_CODE: Final = "Nats-Service-Error-Code"
# Headers of a dead letter.
DEAD_REASON: Final = "Ai-Dead-Reason"
DEAD_CODE: Final = "Ai-Dead-Code"
DEAD_ATTEMPTS: Final = "Ai-Dead-Attempts"
DEAD_TIME: Final = "Ai-Dead-Time"
DEAD_LEFT_OUT: Final = "Ai-Dead-Left-Out"  # what of the job did not fit: `body`, `headers`, `tenant`, joined by commas

# \Z and not $: in Python `$` also matches before a final newline.
TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_REPLY_SUBJECT: Final = re.compile(r"(?:_INBOX|_R_)(?:\.[A-Za-z0-9_-]+)+\Z")
_REPLY_SUBJECT_MAX_CHARS: Final = 255


def is_token(value: str) -> bool:
    """Say whether `value` may be a tenant or a request id."""
    return TOKEN.match(value) is not None


def is_reply_subject(subject: str, *, tenant: str | None = None) -> bool:
    """Say whether the worker may publish events to `subject` (contract, section 5).

    Args:
        subject: A message's reply subject, or a job's `reply_to` header.
        tenant: With a tenant, an inbox must be that tenant's own (`_INBOX.<tenant>.…`); what the server makes for
            account imports (`_R_.…`) stays allowed.
    """
    if len(subject) > _REPLY_SUBJECT_MAX_CHARS or _REPLY_SUBJECT.match(subject) is None:
        return False
    return tenant is None or subject.startswith(("_R_.", f"_INBOX.{tenant}."))


def new_id() -> str:
    """Make a request id that nobody else makes."""
    return os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class ReplyRule:
    """Where the worker may publish at all (contract, section 5): one rule for replies, `reply_to` and control requests.

    Attributes:
        strict: An inbox must be the tenant's own.
    """

    strict: bool = False

    def allows(self, subject: str, tenant: str) -> bool:
        """Say whether something that is `tenant`'s may be published to `subject`."""
        return is_reply_subject(subject, tenant=tenant if self.strict else None)


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects and streams below one prefix. A tenant or id of `*` gives the pattern to subscribe to."""

    prefix: str = PROTOCOL

    @property
    def jobs_stream(self) -> str:
        """The work queue's stream."""
        return self._stream("AIJOBS")

    @property
    def out_stream(self) -> str:
        """The stream of the jobs' records."""
        return self._stream("AIOUT")

    @property
    def dead_stream(self) -> str:
        """The stream of the dead letters."""
        return self._stream("AIDEAD")

    def _stream(self, name: str) -> str:
        return name if self.prefix == PROTOCOL else f"{name}_{self.prefix.replace('.', '_')}"

    def request(self, mode: CoreMode, kind: Kind, tenant: str = "*") -> str:
        """Where a core request goes: `req` for a streamed reply, `ask` for one message."""
        return f"{self.prefix}.{mode}.{kind}.{tenant}"

    def job(self, kind: Kind, tenant: str = "*", request_id: str = "*") -> str:
        """Where a job is submitted with a JetStream publish."""
        return f"{self.prefix}.job.{kind}.{tenant}.{request_id}"

    def out(self, tenant: str = "*", request_id: str = "*") -> str:
        """Where the events of a job go that named no `reply_to`."""
        return f"{self.prefix}.out.{tenant}.{request_id}"

    def dead(self, kind: Kind, tenant: str = "*", request_id: str = "*") -> str:
        """Where a job goes that was given up."""
        return f"{self.prefix}.dead.{kind}.{tenant}.{request_id}"

    def cancel(self, tenant: str = "*", request_id: str = "*") -> str:
        """Request it with an empty body to stop a request."""
        return f"{self.prefix}.ctl.cancel.{tenant}.{request_id}"

    def resume(self, tenant: str = "*") -> str:
        """Request it to read a job's events again from a point on."""
        return f"{self.prefix}.ctl.resume.{tenant}"

    def internal(self, *tokens: str) -> str:
        """Among workers only; requesters have no rights to it."""
        return ".".join((self.prefix, "int", *tokens))
