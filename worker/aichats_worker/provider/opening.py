"""Which provider the settings mean."""

from typing import TYPE_CHECKING

from pydantic import SecretStr

from aichats_worker.provider import Provider
from aichats_worker.provider.aichats.site import AiChats
from aichats_worker.provider.door import Door, Guarded
from aichats_worker.provider.http.upstream import Timeouts
from aichats_worker.provider.openai.site import OpenAI

if TYPE_CHECKING:
    from aichats_worker.settings import Settings


def open_provider(settings: "Settings") -> Provider:
    """Make the provider that the settings name, behind its door.

    Nothing is connected before the first call; it must be made in a running event loop's thread and closed there.
    """
    return Door(
        _provider(settings),
        calls_max=settings.provider_calls_max,
        circuit_failures=settings.provider_circuit_failures,
        circuit_open_seconds=settings.provider_circuit_open_seconds,
        retry_base_seconds=settings.worker_retry_base_seconds,
        retry_max_seconds=settings.worker_retry_max_seconds,
        calls_per_minute=settings.provider_calls_per_minute_max,
        concurrent_calls=settings.provider_concurrent_calls_max,
    )


def _provider(settings: "Settings") -> Guarded:
    timeouts = Timeouts(
        connect=settings.provider_connect_timeout_seconds,
        first_byte=settings.provider_first_byte_timeout_seconds,
        stall=settings.provider_stall_timeout_seconds,
    )
    if settings.worker_provider == "openai":
        return OpenAI(
            base_url=settings.openai_base_url,
            api_key=_plain(settings.openai_api_key),
            text_model=settings.openai_text_model,
            image_model=settings.openai_image_model,
            proxy=_plain(settings.provider_proxy),
            timeouts=timeouts,
            image_max_bytes=settings.provider_image_max_bytes,
            image_memory_max_bytes=settings.provider_image_memory_max_bytes,
            image_allow_private=settings.provider_image_allow_private,
        )
    return AiChats(
        url=settings.aichats_url,
        cookie=_plain(settings.aichats_cookie),
        user_agent=settings.aichats_user_agent,
        proxy=_plain(settings.provider_proxy),
        timeouts=timeouts,
        image_max_bytes=settings.provider_image_max_bytes,
        image_memory_max_bytes=settings.provider_image_memory_max_bytes,
        image_allow_private=settings.provider_image_allow_private,
    )


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
