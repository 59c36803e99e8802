"""What the HTTP library raises, as WorkerErrors: the one place that knows. socks.py does so for its own."""

import ssl
from socket import gaierror

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from aichats_worker.errors import BadResponse, ProviderUnavailable, WorkerError
from aichats_worker.provider.http.addresses import NotPublic, refused

# Around the library's calls alone, so that ValueError and RuntimeError there are its own: a URL that it cannot use, a
# name that IDNA cannot encode, a session that was closed while it was being used.
UPSTREAM_ERRORS = (
    aiohttp.ClientError,
    HttpProcessingError,
    OSError,  # TimeoutError, gaierror, ssl.SSLError, ConnectionError
    EOFError,  # asyncio.IncompleteReadError, which python_socks lets through
    ValueError,
    LookupError,
    RuntimeError,
    AssertionError,
)

NAME_UNKNOWN = "the provider's name cannot be resolved; check the provider's URL and this machine's DNS"
CUT = "the provider closed the connection before it had answered; try again"
LATE = "the provider could not be reached in time; try again later"
PROXY_UNREACHABLE = "the proxy cannot be reached; check PROVIDER_PROXY, or the request's proxy"
PROXY_REFUSED = "the proxy refused the connection; check PROVIDER_PROXY, or the request's proxy"
PROXY_CREDENTIALS = "the proxy demands other credentials; check PROVIDER_PROXY, or the request's proxy"

_SENTENCES: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    # The order matters: what is more special comes first.
    ((aiohttp.ClientProxyConnectionError,), PROXY_UNREACHABLE),
    ((aiohttp.ClientHttpProxyError,), PROXY_REFUSED),
    (
        (aiohttp.ClientConnectorDNSError, gaierror, UnicodeError),
        NAME_UNKNOWN,
    ),
    (
        (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch, ssl.SSLError),
        "the TLS handshake with the provider failed; check its URL, its certificate and this machine's clock",
    ),
    (
        (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError, EOFError),
        CUT,
    ),
    ((TimeoutError,), LATE),
)


def as_worker_error(error: BaseException) -> WorkerError:
    """Return the WorkerError for one of UPSTREAM_ERRORS. Its message holds nothing of the library's own."""
    if isinstance(error.__cause__, NotPublic):
        return refused()
    if isinstance(error, aiohttp.ClientHttpProxyError) and error.status == 407:
        return ProviderUnavailable(PROXY_CREDENTIALS)
    for kinds, sentence in _SENTENCES:
        if isinstance(error, kinds):
            return ProviderUnavailable(sentence)
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return BadResponse("the provider's answer is not HTTP; check the provider's URL")
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return ProviderUnavailable("the provider cannot be reached; check the provider's URL, or try again later")
    return ProviderUnavailable("the provider could not be called; check the provider's URL and the proxy's URL")
