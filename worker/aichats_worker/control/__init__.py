"""Knows what requesters may do to a request that was sent: cancel it, or read it again."""
