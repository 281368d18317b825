"""The error of a wrong command line."""


class UsageProblem(Exception):
    """A mistake in the command line; ``str()`` is one line without the values of options.

    :param command: the name of the command; empty for a mistake before it.
    """

    def __init__(self, problem: str, command: str = "") -> None:
        super().__init__(f"goproxyai {command}: {problem}" if command else f"goproxyai: {problem}")
