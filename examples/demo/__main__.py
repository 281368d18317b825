"""``python -m examples.demo``: run all steps and print one table."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor

from examples.demo.client import TimedClient
from examples.demo.daemon import Daemon
from examples.demo.servers import PASSWORD, FakeServers
from examples.demo.steps import run_steps
from examples.demo.table import Table

MAX_SECONDS = 60.0
"""The limit of the whole run."""


def abort(daemon: Daemon) -> None:
    """End a run that takes too long."""
    print(f"\nThe run did not end within {MAX_SECONDS:.0f} s.")
    daemon.kill()
    print(daemon.log())
    sys.stdout.flush()
    os._exit(2)


def run(servers: FakeServers, daemon: Daemon, table: Table) -> None:
    with TimedClient(daemon.root) as client:
        daemon.wait_until_listening()
        run_steps(servers, client, table)
        # The client's idle connection is still open; it must not delay the end of the daemon.
        status = daemon.stop()
        table.add_note("SIGTERM", status in (0, -15), f"exit status {status}")
    secrets = [secret for secret in ("sk-good", "sk-wrong", PASSWORD) if secret in daemon.log()]
    text = f"it has {', '.join(secrets)}" if secrets else ""
    table.add_note("no secret in the log", not secrets, text)


def main() -> int:
    reactor: Any = global_reactor
    table = Table()
    with tempfile.TemporaryDirectory() as name:
        servers = FakeServers(reactor, Path(name))
        daemon = Daemon(Path(name), servers.settings())
        watchdog = threading.Timer(MAX_SECONDS, abort, [daemon])
        watchdog.daemon = True
        watchdog.start()
        try:
            daemon.start()
            run(servers, daemon, table)
        except Exception:
            table.add_note("the run", False, traceback.format_exc())
        finally:
            daemon.kill()
            servers.close()
            watchdog.cancel()
        if table.problems:
            print(f"\nThe daemon's log:\n{daemon.log()}")
    print(f"\n{table.verdict}")
    return 1 if table.problems else 0


if __name__ == "__main__":
    sys.exit(main())
