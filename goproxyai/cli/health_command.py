"""``goproxyai health``: one request to a running daemon, for the health checks of containers.

Imports of this module are few, because the command runs every few seconds.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping, MutableMapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from goproxyai.cli.commands import BY_NAME
from goproxyai.cli.local_address import LocalAddress, local_address
from goproxyai.cli.usage_problem import UsageProblem
from goproxyai.config.env_file import EnvFileError, parse_env_file
from goproxyai.config.variable import SettingError

TIMEOUT_SECONDS = 3.0
"""Of each step: connecting, TLS, and each read."""

_UNKNOWN_SENDER = b"PROXY UNKNOWN\r\n"
_MAX_BODY_BYTES = 65536


def run(arguments: list[str], environ: MutableMapping[str, str]) -> int:
    """Ask the daemon; the exit status is 1 if the answer is not 200.

    :raises UsageProblem: if the arguments are wrong.
    :raises SettingError: if no address is known.
    """
    ready, url = False, None
    if arguments:
        from goproxyai.cli.options import parse

        options, _ = parse(BY_NAME["health"], arguments)
        ready, url = bool(options["ready"]), options["url"]
    root, prefix, connection = _local(environ) if url is None else _remote(url)
    path = f"{prefix}/health/ready" if ready else f"{prefix}/health"
    began = time.monotonic()
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        problem = "" if response.status == 200 else _problem(response)
    except (OSError, HTTPException) as error:
        problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
    finally:
        connection.close()
    word = "ready" if ready else "healthy"
    if problem:
        print(f"not {word}: {root}{path}: {problem}", file=sys.stderr)
        return 1
    print(f"{word}: {root}{path} answered in {(time.monotonic() - began) * 1000:.0f} ms")
    return 0


def _problem(response: Any) -> str:
    import json

    try:
        code = json.loads(response.read(_MAX_BODY_BYTES))["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return f"status {response.status}"
    return f"status {response.status}, {code}"


def _local(environ: Mapping[str, str]) -> tuple[LocalAddress, str, HTTPConnection]:
    address = local_address(_texts(environ))
    if address is None:
        raise SettingError(
            "LISTEN and ADMIN_LISTEN have no address that is known in advance; give --url"
        )
    return address, "", _LocalConnection(address)


def _texts(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of the file of ``CONFIG``, and the environment, which overrides them."""
    path = environ.get("CONFIG", "").strip()
    if not path:
        return dict(environ)
    try:
        return {**parse_env_file(Path(path).read_bytes(), None), **environ}
    except OSError as error:
        problem = str(error.strerror)
    except EnvFileError as error:
        problem = str(error)
    raise SettingError(f"CONFIG is {path!a}, expected a file of NAME=value lines ({problem})")


def _remote(url: str) -> tuple[str, str, HTTPConnection]:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageProblem("--url must be like http://localhost:8080", "health")
    root = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.scheme == "http":
        connection = HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    else:
        from http.client import HTTPSConnection

        connection = HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS)
    return root, parts.path.rstrip("/"), connection


class _LocalConnection(HTTPConnection):
    """A connection to an address of this machine."""

    def __init__(self, address: LocalAddress) -> None:
        super().__init__(address.host or "localhost", address.port or None, timeout=TIMEOUT_SECONDS)
        self._address = address

    def connect(self) -> None:
        if self._address.path:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(TIMEOUT_SECONDS)
            self.sock.connect(self._address.path)
        else:
            super().connect()
        if self._address.announced:
            self.sock.sendall(_UNKNOWN_SENDER)
        if self._address.tls:
            import ssl

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False  # the connection stays on this machine
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock)
