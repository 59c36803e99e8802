"""TLS to the providers: whom to trust, and who we are."""

import ssl


def tls_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """Make a context that trusts `ca` beside the system's authorities and shows `cert`; None where neither is named.

    Args:
        ca: Path of a bundle of authorities.
        cert: Path of the client certificate.
        key: Path of its key.

    Raises:
        ValueError: A file cannot be read or holds something else; names the setting and no path.
    """
    if ca is None and cert is None:
        return None
    context = ssl.create_default_context()
    try:
        if ca is not None:
            context.load_verify_locations(cafile=ca)
    except (OSError, ValueError):
        raise ValueError("PROVIDER_CA must be a file of certificates that can be read") from None
    try:
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ValueError):
        raise ValueError("PROVIDER_CERT and PROVIDER_KEY must be files of a certificate and its key") from None
    return context
