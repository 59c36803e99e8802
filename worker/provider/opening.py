"""Which provider the settings mean."""

from typing import TYPE_CHECKING

from worker.provider import Provider
from worker.provider.aichats import AiChats
from worker.provider.upstream import Timeouts

if TYPE_CHECKING:
    from worker.settings import Settings


def open_provider(settings: "Settings") -> Provider:
    """Make the provider that the settings name. Nothing is connected before the first call; close() it."""
    cookie, proxy = settings.aichats_cookie, settings.aichats_proxy
    return AiChats(
        url=settings.aichats_url,
        cookie=cookie.get_secret_value() if cookie else None,
        user_agent=settings.aichats_user_agent,
        proxy=proxy.get_secret_value() if proxy else None,
        timeouts=Timeouts(
            connect=settings.aichats_connect_timeout_seconds,
            first_byte=settings.aichats_first_byte_timeout_seconds,
            stall=settings.aichats_stall_timeout_seconds,
        ),
        image_max_bytes=settings.aichats_image_max_bytes,
        image_allow_private=settings.aichats_image_allow_private,
    )
