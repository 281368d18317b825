"""How long a test waits for what should happen at once."""

from typing import Final

PROMPT_SECONDS: Final = 5.0
"""A client that leaves ends its upstream request within a second; a busy machine may take longer.
Shorter than the deadlines of the daemon that would end a connection anyway."""
