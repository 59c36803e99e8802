"""Knows how streams are cut into lines, and how JSON is read that is not quite JSON. Pure: no I/O."""
