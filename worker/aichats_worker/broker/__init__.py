"""Knows the connection to the broker: how it is made, watched and asked who is there."""
