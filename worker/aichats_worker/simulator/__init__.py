"""Knows how to stand in for what is not here: ai-chats.org, and a broker."""
