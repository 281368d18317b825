"""SIGHUP: a running daemon reads its configuration file again."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.process.daemon_process import (
    SECRET,
    TIMEOUT_SECONDS,
    Start,
    assert_clean,
    get,
    start,
    start_stream,
)
from tests.support.authority import Authority
from tests.support.harness import ProxyHarness

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.process


class ConfiguredDaemon:
    """A daemon and its configuration file."""

    def __init__(self, start: Start, directory: Path, content: str, **settings: str) -> None:
        self.file = directory / "own.env"
        self.file.write_text(content)
        self.process = start(CONFIG="own.env", **settings)
        (self.port,) = self.process.listening()

    def reload(self, content: str) -> None:
        """Write *content* to the file, send SIGHUP, and wait for the reload's log lines."""
        self.file.write_text(content)
        before = self.process.out.count("reloaded, ")
        self.process.send(signal.SIGHUP)
        self.process.until(lambda: self.process.out.count("reloaded, ") > before)

    def stats(self) -> Any:
        return get(self.port, "/stats")[1]


def test_sighup_applies_the_changed_file(start: Start, tmp_path: Path) -> None:
    daemon = ConfiguredDaemon(start, tmp_path, "RATE_LIMIT=5\nCACHE_TTL=5s\n")
    assert (daemon.stats()["rate_limit"], daemon.stats()["cache"]["ttl"]) == (5, "5s")
    daemon.reload(f"RATE_LIMIT=7\nCACHE_TTL=7s\nADMIN_TOKEN={SECRET}\n")
    assert (daemon.stats()["rate_limit"], daemon.stats()["cache"]["ttl"]) == (7, "7s")
    assert daemon.process.messages("info")[-1] == (
        "configuration reloaded, changed: RATE_LIMIT, CACHE_TTL, ADMIN_TOKEN"
    )
    daemon.reload(f"RATE_LIMIT=7\nCACHE_TTL=7s\nADMIN_TOKEN={SECRET}\n")
    assert daemon.process.messages("info")[-1] == "configuration reloaded, nothing changed"
    assert SECRET not in daemon.process.out
    assert_clean(daemon.process)


def test_sighup_reads_the_certificate_again(
    start: Start, tmp_path: Path, authority: Authority
) -> None:
    file = tmp_path / "own.pem"
    file.write_bytes(authority.good().pem)
    process = start(LISTEN="ssl:0:interface=127.0.0.1:privateKey=own.pem")
    (port,) = process.listening()
    before = ssl.get_server_certificate(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
    file.write_bytes(authority.good().pem)
    process.send(signal.SIGHUP)
    process.until(lambda: "certificate reloaded" in process.out)
    assert ssl.get_server_certificate(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) != before
    assert_clean(process)


def test_invalid_value_changes_nothing_and_is_logged(start: Start, tmp_path: Path) -> None:
    daemon = ConfiguredDaemon(start, tmp_path, "RATE_LIMIT=5\n")
    daemon.reload(f"RATE_LIMIT=7\nADMIN_TOKEN=two {SECRET}\n")
    assert daemon.stats()["rate_limit"] == 5
    assert daemon.process.messages("error") == [
        "configuration not reloaded, all settings stay as they are: ADMIN_TOKEN is '***', expected "
        "visible ASCII characters without spaces"
    ]
    daemon.file.unlink()
    daemon.process.send(signal.SIGHUP)
    daemon.process.until(lambda: "No such file" in daemon.process.out)
    daemon.reload("RATE_LIMIT=7\n")
    assert daemon.stats()["rate_limit"] == 7
    assert SECRET not in daemon.process.out
    assert "Traceback" not in daemon.process.out
    assert daemon.process.err == ""


def test_settings_that_need_a_restart_and_overridden_settings_are_logged(
    start: Start, tmp_path: Path
) -> None:
    daemon = ConfiguredDaemon(start, tmp_path, "", CACHE_TTL="5s")
    daemon.reload("COALESCE=off\nOPENAI_API_URL=http://127.0.0.1:1\nCACHE_TTL=7s\nRATE_LIMIT=9\n")
    assert daemon.stats()["cache"]["ttl"] == "5s"
    assert daemon.stats()["openai_url"] == "https://api.openai.com"
    assert daemon.stats()["rate_limit"] == 9
    daemon.process.caught_up(daemon.port)
    assert daemon.process.messages("warn") == [
        "restart the proxy to apply: OPENAI_API_URL, COALESCE",
        "CONFIG sets CACHE_TTL without effect: an option or the environment takes precedence",
    ]


def test_log_level_change_applies_to_the_access_log(start: Start, tmp_path: Path) -> None:
    daemon = ConfiguredDaemon(start, tmp_path, "")
    process = daemon.process
    daemon.reload("LOG_LEVEL=warn\nRATE_LIMIT=bad")  # not applied
    get(daemon.port, "/health?one")
    daemon.reload("LOG_LEVEL=warn\n")
    get(daemon.port, "/health?two")
    daemon.file.write_text("LOG_LEVEL=info\nRATE_LIMIT=7\n")
    process.send(signal.SIGHUP)
    process.until(lambda: daemon.stats()["rate_limit"] == 7)
    get(daemon.port, "/health?three")
    process.send(signal.SIGTERM)
    process.ended()
    paths = [line["path"] for line in process.requests]
    assert "/health?one" in paths
    assert "/health?two" not in paths
    assert "/health?three" in paths


def test_many_signals_are_answered_by_few_reloads(start: Start, tmp_path: Path) -> None:
    daemon = ConfiguredDaemon(start, tmp_path, "RATE_LIMIT=5\n")
    daemon.file.write_text("RATE_LIMIT=6\n")
    for _ in range(200):
        daemon.process.send(signal.SIGHUP)
    daemon.file.write_text("RATE_LIMIT=7\n")
    daemon.process.send(signal.SIGHUP)
    daemon.process.until(lambda: daemon.stats()["rate_limit"] == 7)
    assert daemon.process.out.count("configuration reloaded") <= 3
    assert_clean(daemon.process)


@pytest_twisted.ensureDeferred
async def test_sighup_during_the_stop_changes_nothing(
    harness: ProxyHarness, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "own.env").write_text("")
    stream = await start_stream(harness, lambda **settings: start(CONFIG="own.env", **settings))
    process = stream.process
    process.send(signal.SIGTERM)
    await deferToThread(process.until, lambda: "draining" in process.out)
    (tmp_path / "own.env").write_text("DRAIN_TIMEOUT=0\n")
    process.send(signal.SIGHUP)
    await deferToThread(process.until, lambda: "configuration not reloaded" in process.out)
    stream.pause.release()
    answer = await stream.wire.answer()
    assert (answer.body, answer.cut) == (b"onetwo", False)
    assert await deferToThread(process.ended) in (0, -signal.SIGTERM)
    assert_clean(process)
