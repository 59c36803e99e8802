"""Knows what the worker says of itself to people: the AsyncAPI document, and the pages that are made of it."""
