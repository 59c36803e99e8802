"""Knows requests that are stored in JetStream: how they are tried, and how they end."""
