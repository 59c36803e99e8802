"""Measurements. They import the worker and are never imported by it."""
