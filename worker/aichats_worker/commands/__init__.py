"""Knows what people do at a terminal."""
