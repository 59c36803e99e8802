"""TLS to the providers: whom to trust, and who we are. The files may be renewed under a running worker."""

import ssl
from pathlib import Path


class TlsFiles:
    """A context that trusts an authority beside the system's and shows a certificate.

    Args:
        ca: Path of a bundle of authorities.
        cert: Path of the client certificate.
        key: Path of its key.

    Raises:
        ValueError: A file cannot be read or holds something else; names the setting and no path.
    """

    def __init__(self, ca: str | None, cert: str | None, key: str | None) -> None:
        self._ca, self._cert, self._key = ca, cert, key
        self._paths = [Path(path) for path in (ca, cert, key) if path is not None]
        self._seen = self._states()
        self._context = self._made()

    def context(self) -> ssl.SSLContext | None:
        """Return the context for the next connection, from the files as they are now; None where none is named.

        Where they cannot be used, as in the middle of a renewal, the last ones that could hold on.
        """
        if self._paths and (states := self._states()) != self._seen:
            import structlog  # noqa: PLC0415 - a command, which reads the settings too, has no log

            log = structlog.get_logger(__name__)
            self._seen = states
            try:
                self._context = self._made()
            except ValueError as error:
                log.warning("the old files hold on", error=str(error))
            else:
                log.info("TLS files to the providers are read again")
        return self._context

    def _states(self) -> list[object]:
        return [_state(path) for path in self._paths]

    def _made(self) -> ssl.SSLContext | None:
        if not self._paths:
            return None
        context = ssl.create_default_context()
        try:
            if self._ca is not None:
                context.load_verify_locations(cafile=self._ca)
        except (OSError, ValueError):
            raise ValueError("PROVIDER_CA must be a file of certificates that can be read") from None
        try:
            if self._cert is not None:
                context.load_cert_chain(self._cert, self._key)
        except (OSError, ValueError):
            raise ValueError("PROVIDER_CERT and PROVIDER_KEY must be files of a certificate and its key") from None
        return context


def _state(path: Path) -> object:
    """What changes with a file's content: a few microseconds for each call, where reading it would be a millisecond."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
