"""Knows ai-chats.org."""
