"""Knows what the worker says of itself: the log's lines and the metrics' names."""
