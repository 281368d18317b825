"""The checks of the configuration and of its files."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from twisted.internet.testing import MemoryReactorClock

from goproxyai.cli.file_checks import check_configuration, check_files
from goproxyai.cli.findings import Finding, Result
from goproxyai.config.sources import ConfigSources
from tests.support.authority import Authority

# Twisted's parser of ``ssl:`` endpoints hands pyOpenSSL's deprecated types to pyOpenSSL.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects is deprecated")

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def found_in(directory: Path, log_file: str | None = None, **texts: str) -> list[Finding]:
    """Return the findings, as results and details."""
    sources = ConfigSources({}, {"PORT": "0", **texts}, str(directory))
    config, findings = check_configuration(sources, dict(texts))
    if config is None:
        return findings
    return findings[1:] + check_files(MemoryReactorClock(), config, sources, log_file, NOW)


def short(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(each.name, each.result.value, each.detail) for each in findings]


def test_valid_configuration_names_what_is_set(tmp_path: Path) -> None:
    sources = ConfigSources({"RATE_LIMIT": "5"}, {"CACHE_TTL": "1m"}, str(tmp_path))
    _, (finding,) = check_configuration(sources, {})
    assert (finding.result, finding.detail) == (Result.OK, "set: RATE_LIMIT, CACHE_TTL")
    _, (finding,) = check_configuration(ConfigSources({}, {}, str(tmp_path)), {})
    assert finding.detail == "all settings have their defaults"


def test_likely_mistakes_are_warnings(tmp_path: Path) -> None:
    first, last = found_in(tmp_path, RATELIMIT="5")
    assert (first.name, first.result) == ("configuration", Result.WARNING)
    assert first.detail.startswith("RATELIMIT is set")
    assert short([last]) == [("files", "ok", "none are used")]


@pytest.mark.parametrize(
    ("texts", "detail"),
    [
        ({"CONFIG": "none.env"}, "CONFIG is '{}/none.env', expected a file that can be read"),
        ({"PRICES": "none.json"}, "PRICES is '{}/none.json', expected a file that can be read"),
        ({"SSL_CERT_FILE": "none.pem"}, "SSL_CERT_FILE is 'none.pem', expected a file of PEM"),
        ({"RATE_LIMIT": "x"}, "RATE_LIMIT is 'x', expected a whole number"),
    ],
)
def test_file_that_cannot_be_read_fails(tmp_path: Path, texts: dict[str, str], detail: str) -> None:
    (finding,) = found_in(tmp_path, **texts)
    assert (finding.name, finding.result) == ("configuration", Result.FAILED)
    assert finding.detail.startswith(detail.format(tmp_path))


def test_files_that_are_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "own.env").write_text("RATE_LIMIT=5\n")
    (tmp_path / "prices.json").write_text(json.dumps({"m": {"prompt": 1, "completion": 2}}))
    (finding,) = found_in(tmp_path, "own.log", CONFIG="own.env", PRICES="prices.json")
    assert short([finding]) == [("files", "ok", f"{tmp_path}/own.env, prices.json, own.log")]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "it is a directory"),
        ("none/own.log", "its directory does not exist"),
        ("file", ""),
        ("new", ""),
    ],
)
def test_log_file_must_be_possible_to_write(tmp_path: Path, path: str, problem: str) -> None:
    (tmp_path / "file").touch()
    findings = found_in(tmp_path, str(tmp_path / path))
    failed = [each.detail for each in findings if each.result is Result.FAILED]
    expected = f"--logfile is {str(tmp_path / path) if path else str(tmp_path)!a}, {problem}"
    assert [detail.replace("'", "") for detail in failed] == (
        [expected.replace("'", "")] if problem else []
    )


def test_invalid_listener_fails(tmp_path: Path) -> None:
    (finding,) = found_in(tmp_path, LISTEN="nosuch:1", ADMIN_LISTEN="systemd:domain=INET:index=0")
    assert finding.result is Result.FAILED
    assert finding.detail.startswith("LISTEN is 'nosuch:1', expected a Twisted endpoint")


def certificates(directory: Path, not_after: datetime | None) -> str:
    """Write a key and a certificate; return the endpoint string."""
    authority = Authority(directory)
    (directory / "both.pem").write_bytes(authority.issue("a.test", not_after=not_after).pem)
    path = directory / "both.pem"
    return f"haproxy:ssl:0:privateKey={path}:certKey={path}"


@pytest.mark.parametrize(
    ("not_after", "result", "words"),
    [
        (datetime(2026, 10, 31), "failed", "the certificate has expired on 2026-10-31"),
        (datetime(2026, 11, 14), "warning", "the certificate expires on 2026-11-14"),
        (datetime(2026, 11, 16), "ok", ""),
    ],
)
def test_validity_of_the_certificate_is_checked(
    tmp_path: Path, not_after: datetime, result: str, words: str
) -> None:
    findings = found_in(tmp_path, LISTEN=certificates(tmp_path, not_after))
    assert findings[-1].result.value == result
    assert findings[-1].detail == (
        f"{tmp_path}/both.pem: {words}" if words else ", ".join([f"{tmp_path}/both.pem"] * 2)
    )


def test_client_ca_without_a_certificate_fails(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    listen = certificates(tmp_path, None)
    (finding,) = found_in(tmp_path, LISTEN=listen, TLS_CLIENT_CA=str(tmp_path / "ca.pem"))
    assert finding.result is Result.FAILED
    assert finding.detail == f"{listen}: no certificate in {tmp_path}/ca.pem"


def test_missing_key_fails(tmp_path: Path) -> None:
    (finding,) = found_in(tmp_path, LISTEN=f"ssl:0:privateKey={tmp_path}/none.pem")
    assert finding.result is Result.FAILED
    assert "No such file or directory" in finding.detail
