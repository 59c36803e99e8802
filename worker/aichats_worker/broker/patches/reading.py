"""Where nats-py 2.16 is corrected in how it reads messages: what somebody sent must not end the connection for all.

The server passes on whatever a client publishes. nats-py stops reading for good, still connected as far as it can tell,
at a header block that is none, at a status that is not ASCII and at a subject that is not UTF-8; it takes a form feed
in a subject for a space; and it takes a stored job with a `Status` header for a word of the server's.
tests/test_hostile.py has each of them.
"""

import re
from typing import Any, Final

from nats.aio.client import Client
from nats.protocol import parser

# As nats-py's, but with what the server itself takes for a space.
_NAME: Final = rb"([^ \t\r\n]+)[ \t]+"
_MSG: Final = re.compile(rb"\AMSG[ \t]+" + _NAME + _NAME + rb"(" + _NAME + rb")?(\d+)\r\n")
_HMSG: Final = re.compile(rb"\AHMSG[ \t]+" + _NAME + _NAME + rb"(" + _NAME + rb")?(\d+)[ \t]+(\d+)\r\n")
_STORED: Final = b"$JS.ACK."
_STATUS: Final = ("Status", "Description")


def read_anything(nc: Client) -> None:
    """Let a connection read every message that the server can deliver.

    A header block that cannot be read counts as none. A subject or reply subject that is not UTF-8 gets replacement
    characters, which no rule of the contract accepts.
    """
    parser.MSG_RE, parser.HMSG_RE = _MSG, _HMSG
    process_headers = nc._process_headers  # noqa: SLF001 - nats-py has no place for it

    async def headers_of(raw: bytes) -> dict[str, str] | None:
        try:
            return await process_headers(raw)
        except (IndexError, UnicodeDecodeError):
            return None

    def build(sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None) -> Any:
        if headers and reply.startswith(_STORED):
            headers = {name: value for name, value in headers.items() if name not in _STATUS} or None
        return nc.msg_class(
            subject=subject.decode(errors="replace"),
            reply=reply.decode(errors="replace"),
            data=data,
            headers=headers,
            _client=nc,
            _sid=sid,
        )

    nc._process_headers = headers_of  # type: ignore[method-assign, assignment] # noqa: SLF001
    nc._build_message = build  # type: ignore[method-assign] # noqa: SLF001
