"""Turns the settings into the values that the rooms take: nobody else reads them."""

from pydantic import SecretStr

from aichats_worker.broker.connecting import Access
from aichats_worker.provider import Provider
from aichats_worker.provider.opening import open_provider
from aichats_worker.request.call import Limits
from aichats_worker.settings import Settings


def access(settings: Settings) -> Access:
    """Return how the broker is reached."""
    return Access(
        servers=settings.nats_servers,
        creds=settings.nats_creds,
        nkey=settings.nats_nkey,
        user=settings.nats_user,
        password=_plain(settings.nats_password),
        token=_plain(settings.nats_token),
        ca=settings.nats_ca,
        cert=settings.nats_cert,
        key=settings.nats_key,
        inbox_prefix=settings.nats_inbox_prefix,
        js_domain=settings.nats_js_domain,
    )


def limits(settings: Settings) -> Limits:
    """Return what requests may hold."""
    return Limits(
        prompt_max_chars=settings.worker_prompt_max_chars,
        messages_max=settings.worker_messages_max,
        timeout_seconds_max=settings.worker_timeout_seconds_max,
        allow_proxy=settings.worker_allow_request_proxy,
    )


def provider(settings: Settings) -> Provider:
    """Make the provider that is named, behind its door."""
    return open_provider(settings)


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
