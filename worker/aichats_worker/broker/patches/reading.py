"""Where nats-py 2.16 is corrected in how it reads: what somebody sent must not end the connection for all.

The server passes on whatever a client publishes. nats-py stops reading for good, still connected as far as it can tell,
at a header block that is none, at a status that is not ASCII, at a subject that is not UTF-8, and at the answer to a
flush that was given up; it takes a form feed in a subject for a space; and it takes a stored job with a `Status` header
for a word of the server's. tests/request/test_hostile.py has each of them.
"""

import asyncio
import re
from contextlib import suppress
from typing import Any, Final

from nats.aio.client import Client
from nats.protocol import parser

# As nats-py's, but with what the server itself takes for a space.
_NAME: Final = rb"([^ \t\r\n]+)[ \t]+"
_MSG: Final = re.compile(rb"\AMSG[ \t]+" + _NAME + _NAME + rb"(" + _NAME + rb")?(\d+)\r\n")
_HMSG: Final = re.compile(rb"\AHMSG[ \t]+" + _NAME + _NAME + rb"(" + _NAME + rb")?(\d+)[ \t]+(\d+)\r\n")
_STORED: Final = b"$JS.ACK."
_STATUS: Final = ("Status", "Description")

parser.MSG_RE, parser.HMSG_RE = _MSG, _HMSG


class ReadsAnything(Client):
    """Reads every message that the server can deliver.

    A header block that cannot be read counts as none. A subject or reply subject that is not UTF-8 gets replacement
    characters, which no rule of the contract accepts.
    """

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except (IndexError, UnicodeDecodeError):
            return None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Any:
        if headers and reply.startswith(_STORED):
            headers = {name: value for name, value in headers.items() if name not in _STATUS} or None
        return self.msg_class(
            subject=subject.decode(errors="replace"),
            reply=reply.decode(errors="replace"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )

    async def _process_pong(self) -> None:
        with suppress(asyncio.InvalidStateError):  # whoever waited for it has given up
            await super()._process_pong()
