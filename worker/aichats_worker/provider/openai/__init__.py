"""Knows servers that speak the OpenAI-compatible API."""
