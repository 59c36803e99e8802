"""Turns the settings into the values that the rooms take: nobody else reads them."""

from pydantic import SecretStr

from aichats_worker.broker.access import Access
from aichats_worker.provider import Provider
from aichats_worker.provider.opening import open_provider
from aichats_worker.request.call import Limits
from aichats_worker.settings import Settings
from aichats_worker.urls import without_credentials


def access(settings: Settings) -> Access:
    """Return how the broker is reached. Credentials in a URL hold for all servers, discovered ones too."""
    split = [without_credentials(url) for url in settings.nats_servers]
    user, password = next(((user, password) for _, user, password in split if user is not None), (None, None))
    own = settings.nats_user or settings.nats_token or settings.nats_creds or settings.nats_nkey
    return Access(
        servers=[url for url, _, _ in split],
        creds=settings.nats_creds,
        nkey=settings.nats_nkey,
        user=settings.nats_user if own else user if password is not None else None,
        password=_plain(settings.nats_password) if own else password,
        token=_plain(settings.nats_token) if own else user if password is None else None,
        ca=settings.nats_ca,
        cert=settings.nats_cert,
        key=settings.nats_key,
        tls_first=settings.nats_tls_first,
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
