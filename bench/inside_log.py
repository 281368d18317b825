"""The daemon in memory with an access log, whose lines are formatted and then discarded."""

from __future__ import annotations

from bench.inside import InMemoryDaemon, imported


class DiscardingWriter:
    """A writer of log lines, without a file."""

    dropped = 0

    def write(self, data: bytes) -> None:
        """Discard *data*."""

    def ignore(self) -> None:
        pass

    reopen = check_size = start = finish = ignore


class LoggedDaemon(InMemoryDaemon):
    """A daemon that formats a line of JSON for each request."""

    def __init__(self) -> None:
        super().__init__()
        opened = imported("goproxyai.telemetry.log_output:OpenedLog")(DiscardingWriter(), False)
        log_output = imported("goproxyai.telemetry.log_output:LogOutput")
        output = log_output(lambda _: opened, True, "info").open()
        self.log.write_to(output.requests)
