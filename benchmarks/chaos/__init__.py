"""Faults of all kinds under thousands of jobs, and a judge that looks from outside: the wire contract and processes."""
