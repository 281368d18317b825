"""Settings that are applied to a running daemon, one by one and together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import pytest_twisted

from goproxyai.cache.request_fields import NamePatterns
from goproxyai.config.settings import Settings
from goproxyai.daemon import eviction
from goproxyai.daemon.reload import RELOADABLE, apply_settings
from goproxyai.daemon.service import Daemon
from goproxyai.limits.addresses import Networks, TrustedProxies
from tests.support.answers import response
from tests.support.harness import ProxyHarness, eventually, request
from tests.support.steps import Pause
from tests.unit.cache.test_store import numbered, put

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "change-settings.md"

CHANGED: dict[str, tuple[str, Callable[[Daemon], object], object]] = {
    "RATE_LIMIT": ("7", lambda d: d.admission.per_minute, 7),
    "CACHE_TTL": ("7s", lambda d: d.context.options.current.ttl, 7.0),
    "CACHE_MAX_TTL": ("7s", lambda d: d.context.options.current.max_ttl, 7.0),
    "CACHE_ERROR_TTL": ("7s", lambda d: d.context.options.current.error_ttl, 7.0),
    "CACHE_PATHS": (
        "responses",
        lambda d: d.context.options.current.post_paths.names[-1],
        "responses",
    ),
    "CACHE_IGNORE_HEADERS": (
        "X-Team x-corp-*",
        lambda d: d.context.options.current.ignored_fields.headers,
        NamePatterns(frozenset((b"x-team",)), (b"x-corp-",)),
    ),
    "CACHE_IGNORE_COOKIES": (
        "AWSALB",
        lambda d: d.context.options.current.ignored_fields.cookies,
        NamePatterns(frozenset((b"AWSALB",))),
    ),
    "REQUEST_TIMEOUT": ("7s", lambda d: d.agent.timeouts.head, 7.0),
    "GENERATION_TIMEOUT": ("7s", lambda d: d.agent.timeouts.generation, 7.0),
    "KEEPALIVE_TIMEOUT": ("7s", lambda d: d.listeners.factory.keep_alive_seconds, 7.0),
    "CONNECT_TIMEOUT": ("7s", lambda d: d.agent.connect_timeout, 7.0),
    "IDLE_TIMEOUT": ("7s", lambda d: d.agent.timeouts.idle, 7.0),
    "UPGRADES": ("off", lambda d: d.context.options.current.upgrades, False),
    "TUNNEL_IDLE_TIMEOUT": ("7s", lambda d: d.context.tunnels.idle_seconds, 7.0),
    "DRAIN_DELAY": ("7ms", lambda d: d.settings.drain_delay, 0.007),  # the test waits for it
    "DRAIN_TIMEOUT": ("7s", lambda d: d.settings.drain_timeout, 7.0),
    "MAX_CACHE_SIZE": ("7", lambda d: d.context.store.max_bytes, 7 << 20),
    "MAX_REQUEST_MEMORY": ("7", lambda d: d.context.memory.max_bytes, 7 << 20),
    "MAX_BODY_SIZE": ("7", lambda d: d.listeners.factory.max_body_bytes, 7 << 20),
    "TRUSTED_PROXIES": (
        "10.0.0.0/8",
        lambda d: d.admission._trusted,
        TrustedProxies.parse("10.0.0.0/8"),
    ),
    "ADMIN_ALLOW": ("", lambda d: d.admin.settings.admin_allow, Networks()),
    "ADMIN_HOSTS": (
        "proxy.example",
        lambda d: d.admin.settings.admin_hosts,
        frozenset(("proxy.example",)),
    ),
    "ADMIN_TOKEN": ("t0ken", lambda d: d.admin.settings.admin_token, "t0ken"),
    "RETRY_STATUS": ("502", lambda d: d.context.options.current.retry_status, frozenset((502,))),
    "LOG_LEVEL": ("error", lambda d: d.settings.log_level, "error"),
    "LOG_SAMPLE": ("0.5", lambda d: d.context.access_log.sample, 0.5),
    "LOG_SLOW": ("7s", lambda d: d.context.access_log.slow, 7.0),
    "PRICES": ("/prices.json", lambda d: d.settings.prices, "/prices.json"),
}
"""For each reloadable variable: a new text, how to read its value in the daemon, that value."""


def change(daemon: Daemon, **texts: str) -> None:
    """Apply *texts* to *daemon*, as a reload does."""
    after = Settings.from_texts(texts)
    fields = {name.lower(): getattr(after, name.lower()) for name in texts}
    apply_settings(daemon, attrs.evolve(daemon.settings, **fields))


def test_reloadable_variables_are_tested_here_and_documented() -> None:
    assert set(CHANGED) == RELOADABLE
    (documented,) = re.findall(
        r"(?s)These settings can change without a restart: (.*?)\. ", PAGE.read_text("utf-8")
    )
    assert set(re.findall(r"`([A-Z_]+)`", documented)) == RELOADABLE


@pytest.mark.parametrize("name", sorted(CHANGED))
@pytest_twisted.ensureDeferred
async def test_each_reloadable_setting_is_applied(harness: ProxyHarness, name: str) -> None:
    await harness.start()
    assert harness.daemon is not None
    text, read, expected = CHANGED[name]
    assert read(harness.daemon) != expected
    change(harness.daemon, **{name: text})
    assert read(harness.daemon) == expected


@pytest_twisted.ensureDeferred
async def test_next_request_of_an_open_connection_uses_the_new_settings(
    harness: ProxyHarness,
) -> None:
    await harness.start(CACHE_TTL="1h")
    assert harness.daemon is not None
    wire = await harness.connect()

    async def ask(target: str) -> tuple[int, bytes | None]:
        wire.send(request(target))
        answer = await wire.answer()
        return answer.status, answer.get("Cache-Status")

    def lifetime(status: bytes | None) -> int:
        return int(re.findall(rb"ttl=(\d+)", status or b"")[0])

    assert (await ask("/v1/models"))[1] == b"goproxyai; fwd=miss"
    assert lifetime((await ask("/v1/models"))[1]) > 3000
    change(harness.daemon, CACHE_TTL="1m")
    assert lifetime((await ask("/v1/models"))[1]) > 3000  # as when the entry was stored
    assert (await ask("/v1/models/gpt-4o"))[1] == b"goproxyai; fwd=miss"
    assert lifetime((await ask("/v1/models/gpt-4o"))[1]) <= 60
    change(harness.daemon, CACHE_TTL="0")
    assert (await ask("/v1/models"))[1] == b"goproxyai; fwd=bypass; detail=off"
    assert len(harness.daemon.context.store) == 0
    change(harness.daemon, CACHE_TTL="1m")
    assert (await ask("/v1/models"))[1] == b"goproxyai; fwd=miss"
    assert (await ask("/v1/models"))[1] != b"goproxyai; fwd=miss"
    change(harness.daemon, RATE_LIMIT="1")
    assert [(await ask("/v1/models"))[0] for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("off", [{"CACHE_TTL": "0"}, {"MAX_CACHE_SIZE": "0"}])
@pytest_twisted.ensureDeferred
async def test_request_in_progress_when_the_cache_is_turned_off_is_not_stored(
    harness: ProxyHarness, off: dict[str, str]
) -> None:
    await harness.start()
    assert harness.daemon is not None
    store = harness.daemon.context.store
    pause, body = Pause(), b"x" * 100_000
    harness.upstream.script("/v1/slow", [pause, response(body)])
    waiting, uploading = await harness.connect(), await harness.connect()
    waiting.send(request("/v1/slow"))
    await harness.upstream.wait_for(lambda one: one.paused)
    whole = request("/v1/embeddings", "POST", [("X-Cache-TTL", "60")], b'{"input":"a"}')
    uploading.send(whole[:-1])
    await eventually(harness.reactor, lambda: harness.daemon.context.counters.requests == 2)
    change(harness.daemon, **off)
    uploading.send(whole[-1:])
    assert (await uploading.answer()).get("Cache-Status") == b"goproxyai; fwd=bypass; detail=off"
    pause.release()
    answer = await waiting.answer()
    assert (answer.status, answer.body) == (200, body)
    assert (len(store), store.reserved) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_upload_in_progress_keeps_its_size_limit(harness: ProxyHarness) -> None:
    await harness.start(MAX_BODY_SIZE="1")
    assert harness.daemon is not None
    wire, other = await harness.connect(), await harness.connect()
    upload = request("/v1/files", "POST", [("Content-Length", "600000")])
    wire.send(upload + b"x" * 1000)
    await harness.upstream.wait_for(lambda one: one.body_length > 0)
    change(harness.daemon, MAX_BODY_SIZE="0.1")
    other.send(upload)
    assert (await other.answer()).status == 413
    wire.send(b"x" * 599_000)
    answer = await wire.answer()
    assert (answer.status, json.loads(answer.body)["bytes"]) == (200, 600_000)


@pytest_twisted.ensureDeferred
async def test_pooled_upstream_connection_uses_the_new_timeout(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    assert harness.daemon is not None
    await harness.ask(request("/v1/models"))
    assert len(harness.pool) == 1
    change(harness.daemon, REQUEST_TIMEOUT="100ms")
    harness.upstream.script("/v1/never", [Pause()])
    answer = await harness.ask(request("/v1/never"))
    assert answer.status == 504


@pytest_twisted.ensureDeferred
async def test_smaller_store_evicts_the_surplus_in_the_background(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eviction, "EVICTION_INTERVAL_SECONDS", 0.05)
    await harness.start()
    assert harness.daemon is not None
    store = harness.daemon.context.store
    for number in range(3000):
        put(store, numbered(number, now=harness.reactor.seconds()))
    change(harness.daemon, MAX_CACHE_SIZE="0.5")
    assert store.bytes > store.max_bytes
    await eventually(harness.reactor, lambda: store.bytes <= store.max_bytes)
    assert len(store) > 0
