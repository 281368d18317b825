"""A process from which daemons are forked: it has imported what ``twistd goproxyai`` imports.

The imports take most of the time of a start, which hundreds of tests pay for. A forked ``twistd``
or ``python -m goproxyai`` runs from its command line on, in a process, a directory and an
environment of its own. Tests of the imports and of a terminal start programs the ordinary way.

The reactor is left to the daemon, because processes must not share a poll object.

A forked daemon is no child of the tests. A process between it and the template, its parent, writes
its process ID and its exit status to a pipe.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import socket
import sys
from types import ModuleType
from typing import Any

REACTOR = "twisted.internet.reactor"

MAX_REQUEST_BYTES = 1_000_000

OUTPUTS = 2
MAX_DESCRIPTORS = 1 + OUTPUTS + 1
"""A pipe for the status, the outputs, and perhaps a socket to listen on."""

FIRST_PASSED = 3
"""The descriptor of the first socket that systemd passes."""


class LateReactor(ModuleType):
    """Stands for the reactor in modules that import it; looks up the reactor when it is used."""

    def __getattr__(self, name: str) -> Any:
        from twisted.internet import reactor

        if reactor is self:
            raise AttributeError(f"a module uses the reactor's {name} when it is imported")
        return getattr(reactor, name)


def import_all_but_reactor() -> None:
    """Import the package and what it requires, but not the reactor."""
    import goproxyai
    from twisted import internet

    internet.reactor = sys.modules[REACTOR] = LateReactor(REACTOR)
    names = [each.name for each in pkgutil.walk_packages(goproxyai.__path__, "goproxyai.")]
    for name in ("twisted.scripts.twistd", "twisted.internet.epollreactor", *names):
        if name != "goproxyai.__main__":
            importlib.import_module(name)
    import_plugins()
    del internet.reactor, sys.modules[REACTOR]
    gc.collect()
    gc.freeze()


def import_plugins() -> None:
    """Import the plugins whose names ``twistd`` lists."""
    from twisted.application.service import IServiceMaker
    from twisted.plugin import getPlugins

    list(getPlugins(IServiceMaker))


def serve(requests: socket.socket) -> None:
    """Fork a daemon for each request; return in the daemon, which is prepared for ``twistd``."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, MAX_DESCRIPTORS)
        with contextlib.suppress(ChildProcessError):  # there is none
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        if not data:
            sys.exit()
        if os.fork() == 0:
            requests.close()
            status, *inherited = descriptors
            if (pid := os.fork()) == 0:
                os.close(status)
                redirect(inherited[:OUTPUTS])
                prepare(*json.loads(data))
                for each in inherited[OUTPUTS:]:
                    pass_socket(each)
                return
            report_end(pid, inherited, status)
        for each in descriptors:
            os.close(each)


def redirect(outputs: list[int]) -> None:
    """Make *outputs* the standard output and error."""
    with open(os.devnull, "rb") as null:
        for number, each in enumerate((null.fileno(), *outputs)):
            os.dup2(each, number)
    for each in outputs:
        os.close(each)


def prepare(arguments: list[str], environ: dict[str, str], directory: str) -> None:
    """Set what a process gets at its start."""
    python_path = environ.get("PYTHONPATH", "").split(os.pathsep)
    program = directory if is_module(arguments) else os.path.dirname(arguments[0])
    sys.argv = [goproxyai_main(), *arguments[3:]] if is_module(arguments) else arguments
    sys.path[:1] = [
        program,
        *(os.path.join(directory, each) for each in python_path),
    ]
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(directory)
    for each in python_path:
        if os.path.exists(customization := os.path.join(each, "sitecustomize.py")):
            runpy.run_path(customization)


def pass_socket(descriptor: int) -> None:
    """Pass a listening socket with the name ``web`` as systemd does."""
    os.dup2(descriptor, FIRST_PASSED)
    if descriptor != FIRST_PASSED:
        os.close(descriptor)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
    # Twisted has read these variables when the template imported it.
    from twisted.internet import endpoints
    from twisted.python.systemd import ListenFDs

    endpoints._SystemdParser._sddaemon = ListenFDs.fromEnvironment()


def is_module(arguments: list[str]) -> bool:
    return arguments[1:3] == ["-m", "goproxyai"]


def goproxyai_main() -> str:
    """Return the path that ``python -m goproxyai`` has in ``sys.argv``."""
    import goproxyai

    return os.path.join(os.path.dirname(goproxyai.__file__), "__main__.py")


def report_end(pid: int, inherited: list[int], status: int) -> None:
    """Write the ID and, later, the status of a process to the descriptor *status*; never return."""
    for each in (0, 1, 2, *inherited):
        os.close(each)
    os.write(status, b"%d\n" % pid)
    _, ended = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(status, b"%d\n" % os.waitstatus_to_exitcode(ended))
    os._exit(0)


if __name__ == "__main__":
    import_all_but_reactor()
    serve(socket.socket(fileno=int(sys.argv[1])))
    if sys.argv[0] == goproxyai_main():
        from goproxyai.cli.main import run_command

        run_command()
    from twisted.scripts.twistd import run

    sys.exit(run())
