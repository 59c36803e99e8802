"""Knows ai-chats.org."""

from aichats_worker.provider.aichats.site import AiChats

__all__ = ["AiChats"]
