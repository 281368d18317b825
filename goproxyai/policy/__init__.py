"""Decisions without I/O: bytes and numbers in, verdicts out; time comes in as an argument."""
