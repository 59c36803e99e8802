"""Turns the settings into the values that the rooms take: nobody else reads them."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aichats_schemas import __version__
from aichats_worker import login
from aichats_worker.provider import Offers, OpenedProvider
from aichats_worker.provider.aichats import AiChats
from aichats_worker.provider.door import DoorPolicy, Guarded
from aichats_worker.provider.http.route import Environment, Route, Timeouts
from aichats_worker.provider.http.tls import TlsFiles
from aichats_worker.provider.images import ImageLimits
from aichats_worker.provider.openai import OpenAI
from aichats_worker.provider.openai.site import ModelTable, Server
from aichats_worker.provider.opening import open_provider
from aichats_worker.request.asked import Limits
from aichats_worker.settings import Settings, plain


def described(settings: Settings, offers: Offers) -> dict[str, Any]:
    """Return what the log says of a worker when it starts."""
    return {
        "version": __version__,
        "broker": ",".join(login.access(settings).servers),
        "providers": ",".join(settings.providers),
        "models_text": ",".join(offers["text"]),
        "models_image": ",".join(offers["image"]),
        "slots_text": settings.worker_concurrency_max,
        "slots_image": settings.worker_image_concurrency_max,
        "prefix": settings.worker_subject_prefix,
        "jobs": "on" if settings.worker_jobs else "off",
        "http": f"{settings.worker_http_host}:{settings.worker_http_port}" if settings.worker_http_port else "off",
    }


def limits(settings: Settings) -> Limits:
    """Return what requests may hold."""
    return Limits(
        prompt_max_chars=settings.worker_prompt_max_chars,
        messages_max=settings.worker_messages_max,
        timeout_seconds_max=settings.worker_timeout_seconds_max,
        allow_proxy=settings.worker_allow_request_proxy,
    )


def provider(settings: Settings) -> OpenedProvider:
    """Make the providers that are named, each behind its door, as one."""
    made = {"aichats": _aichats, "openai": _openai}
    route_out, limits_of_images = route(settings), _image_limits(settings)
    providers = [made[name](settings, route_out, limits_of_images) for name in settings.providers]
    return open_provider(providers, _policy(settings))


def route(settings: Settings, environment: Mapping[str, str] = os.environ) -> Route:
    """Return how providers are reached; the proxies of the environment are read as other programs do."""
    named = {name: environment.get(name.lower()) or environment.get(name) or "" for name in ("HTTPS_PROXY", "NO_PROXY")}
    return Route(
        proxy=plain(settings.provider_proxy),
        environment=Environment(named["HTTPS_PROXY"], named["NO_PROXY"]),
        timeouts=Timeouts(
            connect=settings.provider_connect_timeout_seconds,
            first_byte=settings.provider_first_byte_timeout_seconds,
            stall=settings.provider_stall_timeout_seconds,
            image=settings.provider_image_timeout_seconds,
        ),
        tls=TlsFiles(settings.provider_ca, settings.provider_cert, settings.provider_key).context,
    )


def provider_urls(settings: Settings) -> dict[str, str]:
    """Return where each provider that is named is, by its name."""
    urls = {"aichats": settings.aichats_url, "openai": settings.openai_base_url}
    return {name: urls[name] for name in settings.providers}


def openai_server(settings: Settings) -> Server:
    """Return the OpenAI-compatible server that is named, and how it is let in."""
    return Server(settings.openai_base_url, plain(settings.openai_api_key), settings.openai_extra_headers)


def openai_image_server(settings: Settings) -> Server:
    """Return where its images come from: what no setting of their own says is as it is for text."""
    server = openai_server(settings)
    if settings.openai_image_base_url is not None:
        server = replace(server, base_url=settings.openai_image_base_url, url_setting="OPENAI_IMAGE_BASE_URL")
    if settings.openai_image_api_key is not None:
        server = replace(server, api_key=plain(settings.openai_image_api_key), key_setting="OPENAI_IMAGE_API_KEY")
    return server


def _aichats(settings: Settings, route_out: Route, limits_of_images: ImageLimits) -> Guarded:
    return AiChats(
        url=settings.aichats_url,
        cookie=plain(settings.aichats_cookie),
        user_agent=settings.aichats_user_agent,
        route=route_out,
        limits=limits_of_images,
    )


def _openai(settings: Settings, route_out: Route, limits_of_images: ImageLimits) -> Guarded:
    server = openai_server(settings)
    return OpenAI(
        server,
        image_server=openai_image_server(settings),
        models=ModelTable(settings.text_models, settings.image_models),
        route=route_out,
        limits=limits_of_images,
    )


def _image_limits(settings: Settings) -> ImageLimits:
    return ImageLimits(
        max_bytes=settings.provider_image_max_bytes,
        memory_max_bytes=settings.provider_image_memory_max_bytes,
        allow_private=settings.provider_image_allow_private,
    )


def _policy(settings: Settings) -> DoorPolicy:
    return DoorPolicy(
        calls_max=settings.provider_calls_max,
        circuit_failures=settings.provider_circuit_failures,
        circuit_open_seconds=settings.provider_circuit_open_seconds,
        retry_base_seconds=settings.worker_retry_base_seconds,
        retry_max_seconds=settings.worker_retry_max_seconds,
        calls_per_minute=settings.provider_calls_per_minute_max,
        concurrent_calls=settings.provider_concurrent_calls_max,
    )
