"""How the broker is reached and who we are there, and what the files that say so hold at this moment."""

import base64
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nats.errors import Error as NatsError

from aichats_worker.errors import SetupError

FILE_MAX_BYTES: Final = 1024 * 1024
_JWT: Final = re.compile(rb"-----BEGIN NATS USER JWT-----\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED: Final = re.compile(rb"-----BEGIN USER NKEY SEED-----\s+(\S+)\s+-+END USER NKEY SEED-+")


class AccessError(SetupError, NatsError):
    """A file cannot be used as it is. At the start that ends it; later it is a reason to try again."""


def _pair(seed: bytes) -> Any:
    import nkeys  # noqa: PLC0415 - with its cryptography 1.4 MB, for whoever signs

    return nkeys.from_seed(bytearray(seed))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Identity:
    """What the files held when they were read.

    Attributes:
        tls: For a connection with TLS; None where nothing but the server asks for it.
        jwt: The user's, from a credentials file.
        seed: What the server's nonce is signed with.
        public_key: The seed's other half, where there is no JWT that holds it.
    """

    tls: ssl.SSLContext | None = None
    jwt: bytes | None = field(default=None, repr=False)
    seed: bytes | None = field(default=None, repr=False)
    public_key: str | None = None

    def sign(self, nonce: str) -> bytes:
        """Return the signature of the server's nonce, in base64."""
        pair = _pair(self.seed or b"")
        signature = base64.b64encode(pair.sign(nonce.encode()))
        pair.wipe()
        return signature


@dataclass(frozen=True, slots=True)
class Access:
    """Which servers, and who we are there. The files are paths, and are read at each connect.

    Attributes:
        servers: URLs without credentials, at least one.
        creds: A credentials file.
        nkey: An nkey seed file.
        user: Goes with password.
        password: Goes with user.
        token: In place of a user.
        ca: The bundle that signs the servers' certificates.
        cert: The client's certificate; goes with key.
        key: The certificate's key.
        tls_first: TLS before the server's first word.
        inbox_prefix: Of our own inboxes.
        js_domain: The JetStream domain of the streams; None for that of the server.
    """

    servers: Sequence[str] = field(repr=False)
    creds: str | None = None
    nkey: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    tls_first: bool = False
    inbox_prefix: str = "_INBOX"
    js_domain: str | None = None

    def identity(self) -> Identity:
        """Read the files.

        Raises:
            AccessError: One of them is missing, or holds something else; the sentence names the setting.
        """
        context = self._tls()
        if self.creds:
            content = _read("NATS_CREDS", self.creds)
            jwt = _found(_JWT, content, f"NATS_CREDS {self.creds} holds no user JWT")
            seed = _found(_SEED, content, f"NATS_CREDS {self.creds} holds no seed")
            _public_key("NATS_CREDS", self.creds, seed)
            return Identity(context, jwt, seed)
        if self.nkey:
            seed = _read("NATS_NKEY", self.nkey).strip()
            return Identity(context, seed=seed, public_key=_public_key("NATS_NKEY", self.nkey, seed))
        return Identity(context)

    def _tls(self) -> ssl.SSLContext | None:
        secure = self.tls_first or any(url.startswith(("tls://", "wss://")) for url in self.servers)
        if not (self.ca or self.cert or secure):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise AccessError(f"NATS_CA {self.ca}: {_because(error)}") from None
        if self.cert:
            try:
                context.load_cert_chain(self.cert, self.key, password="")  # a key with a password would be asked for
            except OSError as error:
                raise AccessError(f"NATS_CERT {self.cert} with NATS_KEY {self.key}: {_because(error)}") from None
        return context


def _read(name: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(FILE_MAX_BYTES)
    except OSError as error:
        raise AccessError(f"{name} {path}: {_because(error)}") from None


def _found(pattern: re.Pattern[bytes], content: bytes, otherwise: str) -> bytes:
    match = pattern.search(content)
    if match is None:
        raise AccessError(otherwise)
    return match[1]


def _public_key(name: str, path: str, seed: bytes) -> str:
    try:
        return str(_pair(seed).public_key.decode())
    except Exception:  # noqa: BLE001 - nkeys lets out whatever base64 and ed25519 raise, and it may repeat the seed
        raise AccessError(f"{name} {path} holds no seed that can be read") from None


def _because(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not readable").lower().replace("_", " ")
    return (error.strerror or type(error).__name__).lower()
