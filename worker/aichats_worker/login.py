"""How the broker is reached, by the settings. It is all that most commands need of them; wiring.py has the rest."""

from aichats_worker.broker.access import Access
from aichats_worker.settings import Settings, plain
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
        password=plain(settings.nats_password) if own else password,
        token=plain(settings.nats_token) if own else user if password is None else None,
        ca=settings.nats_ca,
        cert=settings.nats_cert,
        key=settings.nats_key,
        tls_first=settings.nats_tls_first,
        inbox_prefix=settings.nats_inbox_prefix,
        js_domain=settings.nats_js_domain,
    )
