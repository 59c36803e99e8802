"""How to reach the broker: the NATS settings, as FastStream and as nats-py take them."""

import ssl
from typing import Any

import nats
from faststream.nats.security import NatsCredentials, NatsNKey, NatsSecurity, NatsToken, NatsUserPassword
from nats.aio.client import Client

from aichats_worker.settings import Settings

CONNECT_TIMEOUT_SECONDS = 5


def security(settings: Settings) -> NatsSecurity | None:
    """Return what the worker authenticates with; None for nothing."""
    context = tls(settings)
    if settings.nats_creds:
        return NatsCredentials(settings.nats_creds, ssl_context=context)
    if settings.nats_nkey:
        return NatsNKey.from_file(settings.nats_nkey, ssl_context=context)
    if settings.nats_user and settings.nats_password:
        return NatsUserPassword(settings.nats_user, settings.nats_password.get_secret_value(), ssl_context=context)
    if settings.nats_token:
        return NatsToken(settings.nats_token.get_secret_value(), ssl_context=context)
    return NatsSecurity(ssl_context=context) if context else None


def tls(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context that the settings ask for; None for a plain connection."""
    secure = any(url.startswith(("tls://", "wss://")) for url in settings.nats_servers)
    if not (settings.nats_ca or settings.nats_cert or secure):
        return None
    context = ssl.create_default_context(cafile=settings.nats_ca)
    if settings.nats_cert:
        context.load_cert_chain(settings.nats_cert, settings.nats_key)
    return context


async def connect(settings: Settings) -> Client:
    """Connect once, for a command; it does not come back after a failure.

    Raises:
        OSError, nats.errors.Error: The broker cannot be reached, or refuses.
    """
    options: dict[str, Any] = {
        "user_credentials": settings.nats_creds,
        "nkeys_seed": settings.nats_nkey,
        "user": settings.nats_user,
        "password": settings.nats_password.get_secret_value() if settings.nats_password else None,
        "token": settings.nats_token.get_secret_value() if settings.nats_token else None,
        "tls": tls(settings),
    }

    async def quiet(_: Exception) -> None:
        """What fails is raised; nats-py would print it as well."""

    return await nats.connect(
        settings.nats_servers,
        name="aichats-worker command",
        allow_reconnect=False,
        max_reconnect_attempts=1,  # nats-py counts the first attempt as well, and would make sixty
        reconnect_time_wait=0,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        inbox_prefix=settings.nats_inbox_prefix,
        error_cb=quiet,
        **{name: value for name, value in options.items() if value is not None},
    )
