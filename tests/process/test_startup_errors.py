"""Invalid settings, which end the start of the daemon with one line, and ``--help``."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import attrs
import pytest

from goproxyai.config.variables import VARIABLES
from tests.process.daemon_process import (
    ON_LOOPBACK,
    SECRET,
    TIMEOUT_SECONDS,
    DaemonProcess,
    Start,
    command,
    environment,
    start,
)
from tests.process.start_outcomes import Outcome, outcomes_of

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.process


@attrs.frozen
class InvalidValue:
    """An invalid value of a variable.

    :ivar shown: the part of the value that the error line repeats.
    :ivar expected: a part of what the error line says is expected.
    """

    variable: str
    text: str
    shown: str
    expected: str
    as_option: bool = False

    def __str__(self) -> str:
        return f"{self.variable}={self.text}"

    @property
    def arguments(self) -> list[str]:
        """The command line."""
        option = f"--{self.variable.lower().replace('_', '-')}={self.text}"
        return command(*([option] if self.as_option else []))

    @property
    def settings(self) -> dict[str, str]:
        """The environment, besides the inherited one."""
        return {"LISTEN": ON_LOOPBACK} | ({} if self.as_option else {self.variable: self.text})


INVALID = [
    InvalidValue("PORT", "70000", "'70000'", "a port from 0 to 65535"),
    InvalidValue("LISTEN", "8080", "'8080'", "Twisted endpoint"),
    InvalidValue("LISTEN", "quic:80", "'quic:80'", "Twisted endpoint"),
    InvalidValue("LISTEN", "tcp46:http", "'tcp46:http'", "tcp46:PORT"),
    InvalidValue("LISTEN", "haproxy:quic:80", "'haproxy:quic:80'", "Twisted endpoint"),
    InvalidValue("TLS_CLIENT_CA", "ca.pem", "'ca.pem'", "an ssl: endpoint in LISTEN"),
    InvalidValue("ADMIN_LISTEN", "quic:80", "'quic:80'", "Twisted endpoint"),
    InvalidValue("ADMIN_HOSTS", "a.test:80", "'a.test:80'", "host names", as_option=True),
    InvalidValue(
        "OPENAI_API_URL", "api.test", "'api.test'", "a URL such as https://api.openai.com"
    ),
    InvalidValue("OPENAI_API_URL", f"https://me:{SECRET}@api.test", "***", "without credentials"),
    InvalidValue(
        "PROXY_URL", f"ftp://me:{SECRET}@proxy", "'ftp://***", "http://user:password@proxy:8080"
    ),
    InvalidValue("RELAY_PATHS", "/v1/ /stats/", "'/v1/ /stats/'", "path prefixes"),
    InvalidValue("RATE_LIMIT", "-1", "'-1'", "a whole number", as_option=True),
    InvalidValue("CACHE_TTL", "5 minutes", "'5 minutes'", "a duration such as 30s"),
    InvalidValue("REQUEST_TIMEOUT", "0", "'0'", "longer than 0"),
    InvalidValue("MAX_CACHE_SIZE", "1G", "'1G'", "a number of megabytes"),
    InvalidValue("TRUSTED_PROXIES", "10.0.0.0/33", "'10.0.0.0/33'", "networks such as 10.0.0.0/8"),
    InvalidValue("ADMIN_ALLOW", "10.0.0.1/8", "'10.0.0.1/8'", "without host bits"),
    InvalidValue("ADMIN_TOKEN", f"two {SECRET}", "***", "visible ASCII", as_option=True),
    InvalidValue(
        "CACHE_SHARED", "/v1/models", "'/v1/models'", "paths under /v1/ such as embeddings"
    ),
    InvalidValue("CACHE_SNAPSHOT_KEY", SECRET, "***", "at least 16 visible ASCII"),
    InvalidValue("COALESCE", "some", "'some'", "off, deterministic or all"),
    InvalidValue(
        "LOG_LEVEL", "loud\nand clear", "'loud\\nand clear'", "debug, info, warn or error"
    ),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[InvalidValue, Outcome]:
    """Start the daemon with each invalid value."""
    directory = tmp_path_factory.mktemp("invalid")
    starts = [(invalid.arguments, invalid.settings) for invalid in INVALID]
    return dict(zip(INVALID, outcomes_of(directory, starts), strict=True))


@pytest.mark.parametrize("invalid", INVALID, ids=str)
def test_invalid_value_ends_the_start_with_one_line(
    outcomes: dict[InvalidValue, Outcome], invalid: InvalidValue
) -> None:
    outcome = outcomes[invalid]
    assert outcome.status == 1
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"goproxyai: {invalid.variable} is ")
    assert invalid.shown in line
    assert ", expected " in line
    assert invalid.expected in line
    assert outcome.out == ""
    assert SECRET not in line


def test_twistd_command_ends_with_one_line_for_an_invalid_value(start: Start) -> None:
    process = start(PORT="70000", LISTEN="")
    assert process.ended() == 1
    assert process.err == "goproxyai: PORT is '70000', expected a port from 0 to 65535\n"
    assert process.out == ""


@pytest.mark.parametrize("nodaemon", [True, False])
def test_missing_root_certificates_end_the_start_with_one_line(
    tmp_path: Path, nodaemon: bool
) -> None:
    arguments = command()
    if not nodaemon:
        arguments.remove("--nodaemon")
    process = DaemonProcess(tmp_path, arguments, {"SSL_CERT_FILE": "missing.pem"})
    assert process.ended() == 1
    assert process.err == (
        "goproxyai: SSL_CERT_FILE is 'missing.pem', expected a file of PEM certificates "
        "(No such file or directory)\n"
    )
    assert process.out == ""


def test_help_lists_every_option_with_variable_and_default(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--help"),
        env={**environment(), "COLUMNS": "80"},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    entries = [" ".join(entry.split()) for entry in re.split(r"\n +(?=--)", done.stdout)]
    for variable in VARIABLES:
        (entry,) = [entry for entry in entries if entry.startswith(f"--{variable.option}=")]
        default = "tcp46:$PORT" if variable.name == "LISTEN" else variable.default or "none"
        assert f"({variable.name}; default: {default})" in entry
