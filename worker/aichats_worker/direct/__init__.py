"""Knows requests over core NATS: who is answered, and who else has room."""
