"""Knows where nats-py and FastStream are corrected. Each file goes when they are mended."""
