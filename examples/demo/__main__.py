"""``python -m examples.demo``: one run, no network, one table."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor  # a program of its own

from examples.demo.acts import perform
from examples.demo.client import Client
from examples.demo.daemon import Daemon
from examples.demo.scene import PASSWORD, Scene
from examples.demo.table import Table

PATIENCE = 60.0
"""Seconds that all of it may take."""


def give_up(daemon: Daemon) -> None:
    """The watchdog's end: nothing is waited for any more."""
    print(f"\nNot done after {PATIENCE:.0f} s.")
    daemon.kill()
    print(daemon.log())
    sys.stdout.flush()
    os._exit(2)


def run(scene: Scene, daemon: Daemon, table: Table) -> None:
    with Client(daemon.root) as client:
        daemon.wait_until_listening()
        perform(scene, client, table)
        # The client's idle connection is still open: it must not hold the daemon up.
        status = daemon.stop()
        table.note("SIGTERM", status in (0, -15), f"exit status {status}")
    told = [secret for secret in ("sk-good", "sk-wrong", PASSWORD) if secret in daemon.log()]
    table.note("the log keeps secrets", not told, f"it tells {', '.join(told)}" if told else "")


def main() -> int:
    reactor: Any = global_reactor
    table = Table()
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(reactor, Path(name))
        daemon = Daemon(Path(name), scene.settings())
        watchdog = threading.Timer(PATIENCE, give_up, [daemon])
        watchdog.daemon = True
        watchdog.start()
        try:
            daemon.start()
            run(scene, daemon, table)
        except Exception:
            table.note("the run", False, traceback.format_exc())
        finally:
            daemon.kill()
            scene.close()
            watchdog.cancel()
        if table.wrong:
            print(f"\nThe daemon's log:\n{daemon.log()}")
    print(f"\n{table.verdict}")
    return 1 if table.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
