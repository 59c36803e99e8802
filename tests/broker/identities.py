"""Who a test's worker is to its broker: users of an operator's account with JWTs, seeds, certificates."""

import base64
import hashlib
import json
import os
import time
from typing import Any

import nkeys

KINDS = {"O": nkeys.PREFIX_BYTE_OPERATOR, "A": nkeys.PREFIX_BYTE_ACCOUNT, "U": nkeys.PREFIX_BYTE_USER}
_LIMITS = ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage")
UNLIMITED: dict[str, Any] = dict.fromkeys((*_LIMITS, "streams", "consumer"), -1) | {"wildcards": True}


class Key:
    """A key pair of an operator (O), an account (A) or a user (U)."""

    def __init__(self, kind: str) -> None:
        self._pair: Any = nkeys.from_seed(nkeys.encode_seed(os.urandom(32), KINDS[kind]))  # type: ignore[no-untyped-call]
        self.public: str = self._pair.public_key.decode()
        self.seed = bytes(self._pair.seed).decode()

    def signed(self, **claims: Any) -> str:
        """A JWT of these claims, issued by this key."""
        content = {"iat": int(time.time()), "iss": self.public} | claims
        digest = hashlib.sha256(json.dumps(content).encode()).digest()
        content["jti"] = base64.b32encode(digest).decode().rstrip("=")
        text = ".".join(_b64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, content))
        return f"{text}.{_b64(self._pair.sign(text.encode()))}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Operator:
    """An operator with one account, whose users have credentials files."""

    def __init__(self) -> None:
        self._key, self._system, self._account = Key("O"), Key("A"), Key("A")

    def config(self) -> str:
        """A server's."""
        nats = {"version": 2, "type": "operator", "system_account": self._system.public}
        operator = self._key.signed(name="op", sub=self._key.public, nats=nats)
        limits = {"version": 2, "type": "account", "limits": UNLIMITED}
        accounts = {
            key.public: self._key.signed(name=name, sub=key.public, nats=limits)
            for name, key in (("SYS", self._system), ("AI", self._account))
        }
        preload = ", ".join(f'{public}: "{jwt}"' for public, jwt in accounts.items())
        return (
            f'server_name: s\noperator: "{operator}"\nsystem_account: {self._system.public}\n'
            f"resolver: MEMORY\nresolver_preload: {{ {preload} }}\n"
        )

    def credentials(self, seconds: int | None = None) -> str:
        """A new user's file; it expires after `seconds`."""
        user = Key("U")
        nats = {"version": 2, "type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        expiry = {} if seconds is None else {"exp": int(time.time()) + seconds}
        jwt = self._account.signed(name="worker", sub=user.public, nats=nats, **expiry)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
