"""No exception of the libraries for HTTP and SOCKS reaches the requester as `internal`."""

import asyncio
import importlib
import inspect
import pkgutil
import socket
import ssl
from types import ModuleType
from typing import Any

import aiohttp  # noqa: TID251 - its exceptions are what is tested
import pytest
import python_socks
from aiohttp import client_exceptions, http_exceptions  # noqa: TID251

from aichats_worker.errors import BadResponse, DeadlineExceeded, ProviderUnavailable
from aichats_worker.provider.http.failures import UPSTREAM_ERRORS, as_worker_error
from aichats_worker.provider.http.socks import FAILURES

# What no HTTP client call can raise: the server's side, websockets, the parser's and the event loop's own signals.
NOT_OURS = {
    "aiohttp.web", "aiohttp.streams.EofStream", "aiohttp.payload.LookupError", "aiohttp.helpers.ErrorableProtocol",
    "aiohttp.http_websocket", "aiohttp._websocket", "aiohttp.pytest_plugin", "aiohttp.test_utils", "aiohttp.worker",
    "aiohttp.tracing", "aiohttp.client_ws", "aiohttp.client_exceptions.WSMessageTypeError",
    "python_socks._protocols", "python_socks._errors.IncompleteReadError", "python_socks._errors.ProxyException",
}  # fmt: skip


def modules(package: ModuleType) -> list[ModuleType]:
    found = [package]
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        try:
            found.append(importlib.import_module(info.name))
        except ImportError:  # for other event loops that are not installed
            continue
    return found


def is_ours(kind: type[BaseException]) -> bool:
    name = f"{kind.__module__}.{kind.__name__}"
    return not issubclass(kind, Warning) and not any(name.startswith(other) for other in NOT_OURS)


def raised_by(package: ModuleType) -> set[type[BaseException]]:
    return {
        kind
        for module in modules(package)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__.startswith(package.__name__) and is_ours(kind)
    }


def raisable() -> list[type[BaseException]]:
    standard = {
        asyncio.IncompleteReadError, asyncio.TimeoutError, TimeoutError, OSError, ConnectionResetError, BrokenPipeError,
        ConnectionRefusedError, socket.gaierror, ssl.SSLError, ssl.SSLCertVerificationError, ssl.SSLEOFError, EOFError,
        ValueError, UnicodeError, RuntimeError, AssertionError,
    }  # fmt: skip
    return sorted(raised_by(aiohttp) | standard, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


@pytest.mark.parametrize("kind", raisable(), ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_every_exception_of_the_http_library_has_a_code(kind: type[BaseException]) -> None:
    assert issubclass(kind, UPSTREAM_ERRORS)
    raised: Any = kind.__new__(kind)  # whatever its constructor wants
    if kind is aiohttp.ClientHttpProxyError:
        raised.status = 502
    error = as_worker_error(raised)
    assert isinstance(error, ProviderUnavailable | BadResponse | DeadlineExceeded)
    assert error.retryable


def test_the_list_holds_what_it_should() -> None:
    names = {kind.__name__ for kind in raisable()}
    wanted = {
        name
        for module in (client_exceptions, http_exceptions)
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == module.__name__
    }
    assert wanted - {"WSMessageTypeError"} <= names


def test_every_exception_of_the_socks_library_has_a_sentence() -> None:
    assert raised_by(python_socks) == set(FAILURES)
