"""Knows one request, whoever brought it: what it asks, where it runs, and its one end."""
