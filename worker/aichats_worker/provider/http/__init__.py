"""Knows HTTP: sessions, proxies, addresses, and what the libraries raise."""
