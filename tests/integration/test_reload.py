"""The configuration changes while the daemon runs: owner by owner, together, and by SIGHUP."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs

from goproxyai.cache.store import Store
from goproxyai.config.settings import SettingError, Settings
from goproxyai.config.sources import ConfigSources, LoadedConfig
from goproxyai.daemon import service
from goproxyai.daemon.reload import LIVE, Reload, differences
from goproxyai.daemon.service import Daemon, make_daemon
from goproxyai.limits.addresses import Networks
from goproxyai.limits.token_buckets import TokenBuckets
from goproxyai.proxy.admission import SWEEP_SLICE, TICK, Admission
from goproxyai.telemetry.log_output import LogOutput
from tests.process.test_twistd import (
    SECRET,
    Process,
    Start,
    assert_clean,
    get,
    start,
    streaming,
)
from tests.support.answers import response
from tests.support.harness import Stand, eventually, lines, request
from tests.support.steps import Pause
from tests.unit.cache.test_store import numbered, put

__all__ = ["start"]  # the fixture

README = Path(__file__).resolve().parents[2] / "README.md"

# Buckets.


def taken(buckets: TokenBuckets, client: str = "a") -> int:
    count = 0
    while buckets.take(client) == 0:
        count += 1
    return count


def test_a_lower_limit_clips_what_a_bucket_holds() -> None:
    buckets = TokenBuckets(60)
    buckets.take("a")
    buckets.limit(10)
    assert taken(buckets) == 10


def test_a_higher_limit_fills_no_bucket() -> None:
    buckets = TokenBuckets(10)
    assert taken(buckets) == 10
    buckets.mint(1.0)
    buckets.limit(600)
    assert taken(buckets) == 0
    buckets.mint(1.0)
    assert taken(buckets) == 10


def test_a_bucket_that_was_full_is_at_most_as_full_as_a_new_one() -> None:
    buckets = TokenBuckets(10)
    buckets.take("old")
    for _ in range(600):
        buckets.mint(1.0)
    buckets.limit(30)
    assert 10 <= taken(buckets, "old") <= taken(buckets, "new") == 30


def test_who_is_told_to_wait_under_the_new_limit_is_let_in_then() -> None:
    buckets = TokenBuckets(600)
    taken(buckets)
    buckets.limit(6)
    assert buckets.take("a") == pytest.approx(10.0)
    for _ in range(99):
        buckets.mint(0.1)
    assert buckets.take("a") > 0
    buckets.mint(0.1)
    assert buckets.take("a") == 0


def test_a_limit_of_none_is_not_the_buckets_business() -> None:
    with pytest.raises(ValueError, match="tokens"):
        TokenBuckets(1).limit(0)


def limiting(clock: Clock, per_minute: int) -> Admission:
    one = Admission(clock, per_minute, Networks.parse(""))
    one.start()
    return one


def pump(clock: Clock, seconds: float) -> None:
    clock.pump([TICK] * round(seconds / TICK))


def test_a_limit_that_is_lifted_lets_everybody_in_and_forgets_the_buckets_in_slices() -> None:
    clock = Clock()
    one = limiting(clock, 2)
    clients = [f"192.0.{number >> 8}.{number & 255}" for number in range(SWEEP_SLICE + 100)]
    for client in clients:
        one.wait(client)
    one.limit(0)
    assert [one.wait(clients[0]) for _ in range(5)] == [0.0] * 5
    counts = [len(one.buckets)]
    for _ in range(1300):
        clock.advance(TICK)
        counts.append(len(one.buckets))
    assert counts[-1] == 0
    assert max(a - b for a, b in pairwise(counts)) <= SWEEP_SLICE
    assert clock.getDelayedCalls() == []


def test_a_limit_that_is_set_again_holds_and_refills() -> None:
    clock = Clock()
    one = limiting(clock, 0)
    one.limit(6)
    assert [one.wait("192.0.2.1") for _ in range(7)][:6] == [0.0] * 6
    assert one.wait("192.0.2.1") > 0
    one.limit(0)
    one.limit(6)
    assert one.wait("192.0.2.1") > 0
    pump(clock, 10.1)
    assert one.wait("192.0.2.1") == 0
    one.stop()
    assert clock.getDelayedCalls() == []


def test_a_limit_that_is_set_while_nothing_runs_starts_nothing() -> None:
    clock = Clock()
    one = Admission(clock, 0, Networks.parse(""))
    one.limit(6)
    assert clock.getDelayedCalls() == []
    one.start()
    one.stop()
    one.limit(7)
    assert clock.getDelayedCalls() == []


# The store.


def test_a_smaller_store_drops_what_is_too_much_in_slices_and_grows_no_more() -> None:
    store = Store(1_000_000)
    for number in range(400):
        put(store, numbered(number))
    before, count = store.bytes, len(store)
    store.resize(before // 4)
    assert (len(store), store.largest) == (count, before // 40)
    while store.shrink(10):
        assert count - 10 <= len(store) <= count
        assert store.bytes <= before
        put(store, numbered(1000 + len(store)))  # what is put meanwhile drops as much, not all
        assert store.bytes <= before
        count = len(store)
    assert store.bytes <= store.most_bytes == before // 4
    put(store, numbered(9999))
    assert store.bytes <= store.most_bytes
    assert store.get(b"%032d" % 9999, 0.0) is not None


def test_a_smaller_store_waits_for_what_is_being_collected() -> None:
    store = Store(100_000)
    assert store.reserve(40_000)
    store.resize(10_000)
    assert not store.shrink()
    assert not store.reserve(1)
    store.release(40_000)
    assert not store.shrink()
    assert put(store, numbered(1), b"/v1/a") is False or store.bytes <= 10_000
    assert store.reserve(4_000)
    assert not store.reserve(2_000)


def test_a_larger_store_keeps_all_and_takes_more() -> None:
    store = Store(50_000)
    for number in range(200):
        put(store, numbered(number))
    count = len(store)
    store.resize(500_000)
    assert not store.shrink()
    for number in range(200, 400):
        put(store, numbered(number))
    assert len(store) == count + 200


# The log.


def test_the_log_leaves_out_what_is_below_its_level_from_then_on() -> None:
    output = LogOutput(lambda: None, True, "info")  # type: ignore[arg-type, return-value]
    assert output.wants_requests
    output.limit("warn")
    assert not output.wants_requests
    output.limit("debug")
    assert output.wants_requests


# All of them, in one turn.

CHANGED: dict[str, tuple[str, Callable[[Daemon], object], object]] = {
    "RATE_LIMIT": ("7", lambda d: d.system.relay.admission.per_minute, 7),
    "CACHE_TTL": ("7s", lambda d: d.system.relay.terms.ttl, 7.0),
    "CACHE_MAX_TTL": ("7s", lambda d: d.system.relay.terms.most_ttl, 7.0),
    "REQUEST_TIMEOUT": ("7s", lambda d: d.agent.timeouts.head, 7.0),
    "CONNECT_TIMEOUT": ("7s", lambda d: d.agent.connect_timeout, 7.0),
    "IDLE_TIMEOUT": ("7s", lambda d: d.agent.timeouts.silence, 7.0),
    "DRAIN_TIMEOUT": ("7s", lambda d: d.settings.drain_timeout, 7.0),
    "MAX_CACHE_SIZE": ("7", lambda d: d.system.relay.store.most_bytes, 7 << 20),
    "MAX_BODY_SIZE": ("7", lambda d: d.door.factory.max_body_bytes, 7 << 20),
    "TRUSTED_PROXIES": (
        "10.0.0.0/8",
        lambda d: d.system.relay.admission._trusted,
        Networks.parse("10.0.0.0/8"),
    ),
    "ADMIN_ALLOW": ("", lambda d: d.system.settings.admin_allow, Networks()),
    "ADMIN_TOKEN": ("t0ken", lambda d: d.system.settings.admin_token, "t0ken"),
    "RETRY_STATUS": ("502", lambda d: d.system.relay.terms.retry_status, frozenset((502,))),
    "LOG_LEVEL": ("error", lambda d: d.settings.log_level, "error"),
    "LOG_SAMPLE": ("0.5", lambda d: d.system.relay.log.sample, 0.5),
    "LOG_SLOW": ("7s", lambda d: d.system.relay.log.slow, 7.0),
    "PRICES": ("/prices.json", lambda d: d.settings.prices, "/prices.json"),
}
"""A new text, who must know of it, and what it then knows."""


def changed(daemon: Daemon, **texts: str) -> None:
    """Let *daemon* go on with *texts*, as a SIGHUP does."""
    after = Settings.from_texts(texts)
    fields = {name.lower(): getattr(after, name.lower()) for name in texts}
    daemon.change(attrs.evolve(daemon.settings, **fields))


def test_what_can_change_is_tried_here_and_told_in_the_readme() -> None:
    assert set(CHANGED) == LIVE
    (told,) = re.findall(r"(?s)What can change while it runs: (.*?)\.\n", README.read_text("utf-8"))
    assert set(re.findall(r"`([A-Z_]+)`", told)) == LIVE


@pytest.mark.parametrize("name", sorted(CHANGED))
@pytest_twisted.ensureDeferred
async def test_whoever_owns_a_setting_takes_another(stand: Stand, name: str) -> None:
    await stand.start()
    assert stand.daemon is not None
    text, held, expected = CHANGED[name]
    assert held(stand.daemon) != expected
    changed(stand.daemon, **{name: text})
    assert held(stand.daemon) == expected


def test_what_differs_is_told_by_name() -> None:
    before = Settings.from_texts({})
    assert differences(before, before) == ([], [])
    after = Settings.from_texts(
        {"RATE_LIMIT": "1", "PORT": "1", "COALESCE": "off", "LOG_LEVEL": "warn"}
    )
    assert differences(before, after) == (["RATE_LIMIT", "LOG_LEVEL"], ["LISTEN", "COALESCE"])


@pytest_twisted.ensureDeferred
async def test_the_next_request_of_an_open_connection_is_served_by_the_new_settings(
    stand: Stand,
) -> None:
    await stand.start(CACHE_TTL="1h")
    assert stand.daemon is not None
    wire = await stand.connect()

    async def ask(target: str) -> tuple[int, bytes | None]:
        wire.send(request(target))
        answer = await wire.answer()
        return answer.status, answer.get("Cache-Status")

    def lifetime(status: bytes | None) -> int:
        return int(re.findall(rb"ttl=(\d+)", status or b"")[0])

    assert (await ask("/v1/models"))[1] == b"goproxyai; fwd=miss"
    assert lifetime((await ask("/v1/models"))[1]) > 3000
    changed(stand.daemon, CACHE_TTL="1m")
    assert lifetime((await ask("/v1/models"))[1]) > 3000  # stored for that long
    assert (await ask("/v1/models/gpt-4o"))[1] == b"goproxyai; fwd=miss"
    assert lifetime((await ask("/v1/models/gpt-4o"))[1]) <= 60
    changed(stand.daemon, CACHE_TTL="0")
    assert (await ask("/v1/models"))[1] == b"goproxyai; fwd=bypass; detail=off"
    assert len(stand.daemon.system.relay.store) == 0
    changed(stand.daemon, CACHE_TTL="1m")
    assert (await ask("/v1/models"))[1] == b"goproxyai; fwd=miss"
    assert (await ask("/v1/models"))[1] != b"goproxyai; fwd=miss"
    changed(stand.daemon, RATE_LIMIT="1")
    assert [(await ask("/v1/models"))[0] for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("off", [{"CACHE_TTL": "0"}, {"MAX_CACHE_SIZE": "0"}])
@pytest_twisted.ensureDeferred
async def test_what_is_under_way_as_the_cache_is_turned_off_is_answered_and_not_stored(
    stand: Stand, off: dict[str, str]
) -> None:
    await stand.start()
    assert stand.daemon is not None
    relay = stand.daemon.system.relay
    pause, body = Pause(), b"x" * 100_000
    stand.upstream.script("/v1/slow", [pause, response(body)])
    flying, reading = await stand.connect(), await stand.connect()
    flying.send(request("/v1/slow"))
    await stand.upstream.wait_for(lambda one: one.paused)
    whole = request("/v1/embeddings", "POST", [("X-Cache-TTL", "60")], b'{"input":"a"}')
    reading.send(whole[:-1])
    await eventually(stand.reactor, lambda: stand.daemon.system.stats.counters.requests == 2)
    changed(stand.daemon, **off)
    reading.send(whole[-1:])
    assert (await reading.answer()).get("Cache-Status") == b"goproxyai; fwd=bypass; detail=off"
    pause.release()
    answer = await flying.answer()
    assert (answer.status, answer.body) == (200, body)
    assert (len(relay.store), relay.store.reserved) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_an_upload_under_way_keeps_the_limit_that_it_began_under(stand: Stand) -> None:
    await stand.start(MAX_BODY_SIZE="1")
    assert stand.daemon is not None
    wire, other = await stand.connect(), await stand.connect()
    head_of_it = request("/v1/files", "POST", [("Content-Length", "600000")])
    wire.send(head_of_it + b"x" * 1000)
    await stand.upstream.wait_for(lambda one: one.body_length > 0)
    changed(stand.daemon, MAX_BODY_SIZE="0.1")
    other.send(head_of_it)
    assert (await other.answer()).status == 413
    wire.send(b"x" * 599_000)
    answer = await wire.answer()
    assert (answer.status, json.loads(answer.body)["bytes"]) == (200, 600_000)


@pytest_twisted.ensureDeferred
async def test_a_connection_to_upstream_that_is_kept_waits_as_long_as_is_now_said(
    stand: Stand,
) -> None:
    await stand.start()
    assert stand.daemon is not None
    await stand.ask(request("/v1/models"))
    assert len(stand.pool) == 1
    changed(stand.daemon, REQUEST_TIMEOUT="100ms")
    stand.upstream.script("/v1/never", [Pause()])
    answer = await stand.ask(request("/v1/never"))
    assert answer.status == 504


@pytest_twisted.ensureDeferred
async def test_a_store_that_was_made_smaller_is_emptied_beside_the_requests(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "EVICTION_SECONDS", 0.05)
    await stand.start()
    assert stand.daemon is not None
    store = stand.daemon.system.relay.store
    for number in range(3000):
        put(store, numbered(number, now=stand.reactor.seconds()))
    changed(stand.daemon, MAX_CACHE_SIZE="0.5")
    assert store.bytes > store.most_bytes
    await eventually(stand.reactor, lambda: store.bytes <= store.most_bytes)
    assert len(store) > 0


# Read again.


@attrs.define
class Again:
    """A daemon that does not run, and what a reload finds and says.

    :ivar found: what is read; ``None`` where nothing may be.
    :ivar levels: of the log, as they were chosen; with how much had been logged by then.
    """

    daemon: Daemon
    found: LoadedConfig | SettingError | None = None
    levels: list[tuple[str, int]] = attrs.field(factory=list)

    def __call__(self, found: LoadedConfig | SettingError | None) -> list[str]:
        """Read *found*; gives the lines of the log."""
        self.found = found
        with capturedLogs() as events:

            def write(level: str) -> None:
                self.levels.append((level, len(events)))

            Reload(self.daemon, self._read, write).now()
        return lines(events)

    def _read(self) -> LoadedConfig:
        assert self.found is not None, "it is not the time to read"
        if isinstance(self.found, SettingError):
            raise self.found
        return self.found


@pytest.fixture
def again() -> Again:
    return Again(make_daemon(MemoryReactorClock(), Settings.from_texts({"RATE_LIMIT": "5"})))


def said(hidden: tuple[str, ...] = (), **texts: str) -> LoadedConfig:
    return LoadedConfig(Settings.from_texts({"RATE_LIMIT": "5", **texts}), hidden)


def test_what_can_change_changes_and_is_named(again: Again) -> None:
    assert again(said(RATE_LIMIT="7", CACHE_TTL="7s")) == [
        "info: the configuration has changed: RATE_LIMIT, CACHE_TTL"
    ]
    assert (again.daemon.settings.rate_limit, again.daemon.settings.cache_ttl) == (7, 7.0)
    assert again(said(RATE_LIMIT="7", CACHE_TTL="7s")) == [
        "info: the configuration has not changed"
    ]
    assert again.levels == []


def test_a_value_that_is_none_leaves_everything_as_it_is(again: Again) -> None:
    before = again.daemon.settings
    assert again(SettingError("RATE_LIMIT is 'x', expected a whole number")) == [
        "error: the configuration is as before: RATE_LIMIT is 'x', expected a whole number"
    ]
    assert again.daemon.settings is before


def test_what_needs_a_restart_stays_and_is_named_each_time(again: Again) -> None:
    reading = said(RATE_LIMIT="7", COALESCE="off", OPENAI_API_URL="http://other.test")
    restart = "warn: the configuration needs a restart: OPENAI_API_URL, COALESCE"
    assert again(reading) == ["info: the configuration has changed: RATE_LIMIT", restart]
    assert again.daemon.settings == said(RATE_LIMIT="7").settings
    assert again(reading) == ["info: the configuration has not changed", restart]


def test_what_has_no_effect_is_named(again: Again) -> None:
    assert again(said(("CACHE_TTL", "PORT"))) == [
        "info: the configuration has not changed",
        "warn: CONFIG sets CACHE_TTL, PORT to no effect: an option or the environment wins",
    ]


def test_another_level_of_the_log_holds_for_what_is_logged_behind_the_reload(
    again: Again,
) -> None:
    logged = again(said(("CACHE_TTL",), LOG_LEVEL="error", COALESCE="off"))
    assert len(logged) == 3
    assert again.levels == [("error", 3)]


def test_nothing_is_read_while_the_daemon_stops(again: Again) -> None:
    again.daemon.stopping = True
    assert again(None) == ["info: the configuration is not read again: the proxy is stopping"]


# Where settings come from.


def sources(directory: Path, file: str, options: Any = (), **environ: str) -> ConfigSources:
    (directory / "own.env").write_text(file)
    return ConfigSources(dict(options), {"CONFIG": "own.env", **environ}, str(directory))


def test_options_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = "RATE_LIMIT=1\nCACHE_TTL=1s\nDRAIN_TIMEOUT=1s\nIDLE_TIMEOUT=2s\n"
    reading = sources(
        tmp_path, file, {"RATE_LIMIT": "3"}, RATE_LIMIT="2", CACHE_TTL="2s", IDLE_TIMEOUT="2s",
        PATH="/bin",
    ).read()  # fmt: skip
    settings = reading.settings
    assert (settings.rate_limit, settings.cache_ttl, settings.drain_timeout) == (3, 2.0, 1.0)
    assert reading.hidden == ("RATE_LIMIT", "CACHE_TTL")


def test_without_a_file_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert ConfigSources({}, {}, str(tmp_path)).path is None
    assert ConfigSources({}, {"CONFIG": " "}, str(tmp_path)).read().settings == Settings.from_texts(
        {}
    )
    assert ConfigSources({"CONFIG": "/b"}, {"CONFIG": "/a"}, str(tmp_path)).path == "/b"


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("RATE_LIMIT", r"CONFIG is '.*/own\.env', expected .* \(line 1 is not NAME=value\)"),
        (
            "CONFIG=a",
            r"CONFIG is '.*/own\.env', expected .* \(line 1: CONFIG cannot be set there\)",
        ),
        ("RATE_LIMIT=x", "RATE_LIMIT is 'x', expected a whole number of .*"),
    ],
)
def test_a_file_that_is_wrong_is_told_in_one_line(
    tmp_path: Path, file: str, complaint: str
) -> None:
    with pytest.raises(SettingError) as caught:
        sources(tmp_path, file).read()
    assert re.fullmatch(complaint, str(caught.value))
    assert caught.value.__context__ is None


def test_what_is_no_readable_file_is_told_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("pipe", "Not a regular file"),
        ("none", "No such file"),
        ("", "a directory"),
    ):
        with pytest.raises(SettingError, match=f"expected a file that can be read .*{why}"):
            ConfigSources({"CONFIG": f"{tmp_path}/{name}"}, {}, "/").read()


# SIGHUP.


def messages(process: Process, level: str) -> list[str]:
    return [line["message"] for line in process.log if line["level"] == level and "message" in line]


class Configured:
    """A daemon and its file."""

    def __init__(self, start: Start, directory: Path, file: str, **settings: str) -> None:
        self.file = directory / "own.env"
        self.file.write_text(file)
        self.process = start(CONFIG="own.env", **settings)
        (self.port,) = self.process.listening()

    def reload(self, file: str) -> None:
        """Let it read *file*, and wait until it has."""
        self.file.write_text(file)
        before = self.process.out.count("the configuration ")
        self.process.send(signal.SIGHUP)
        self.process.until(lambda: self.process.out.count("the configuration ") > before)
        get(self.port, "/health")  # what else it has to say is said in that turn

    def stats(self) -> Any:
        return get(self.port, "/stats")[1]


def test_a_hangup_changes_what_the_file_says(start: Start, tmp_path: Path) -> None:
    it = Configured(start, tmp_path, "RATE_LIMIT=5\nCACHE_TTL=5s\n")
    assert (it.stats()["rate_limit"], it.stats()["cache"]["ttl"]) == (5, "5s")
    it.reload(f"RATE_LIMIT=7\nCACHE_TTL=7s\nADMIN_TOKEN={SECRET}\n")
    assert (it.stats()["rate_limit"], it.stats()["cache"]["ttl"]) == (7, "7s")
    assert messages(it.process, "info")[-1] == (
        "the configuration has changed: RATE_LIMIT, CACHE_TTL, ADMIN_TOKEN"
    )
    it.reload(f"RATE_LIMIT=7\nCACHE_TTL=7s\nADMIN_TOKEN={SECRET}\n")
    assert messages(it.process, "info")[-1] == "the configuration has not changed"
    assert SECRET not in it.process.out
    assert_clean(it.process)


def test_a_bad_value_leaves_all_as_it_is_and_says_what_the_start_says(
    start: Start, tmp_path: Path
) -> None:
    it = Configured(start, tmp_path, "RATE_LIMIT=5\n")
    it.reload(f"RATE_LIMIT=7\nADMIN_TOKEN=two {SECRET}\n")
    assert it.stats()["rate_limit"] == 5
    assert messages(it.process, "error") == [
        "the configuration is as before: ADMIN_TOKEN is '***', expected visible ASCII characters "
        "without spaces"
    ]
    it.file.unlink()
    it.process.send(signal.SIGHUP)
    it.process.until(lambda: "No such file" in it.process.out)
    it.reload("RATE_LIMIT=7\n")
    assert it.stats()["rate_limit"] == 7
    assert SECRET not in it.process.out
    assert "Traceback" not in it.process.out
    assert it.process.err == ""


def test_what_needs_a_restart_is_named_and_so_is_what_has_no_effect(
    start: Start, tmp_path: Path
) -> None:
    it = Configured(start, tmp_path, "", CACHE_TTL="5s")
    it.reload("COALESCE=off\nOPENAI_API_URL=http://127.0.0.1:1\nCACHE_TTL=7s\nRATE_LIMIT=9\n")
    assert it.stats()["cache"]["ttl"] == "5s"
    assert it.stats()["openai_url"] == "https://api.openai.com"
    assert it.stats()["rate_limit"] == 9
    assert messages(it.process, "warn") == [
        "the configuration needs a restart: OPENAI_API_URL, COALESCE",
        "CONFIG sets CACHE_TTL to no effect: an option or the environment wins",
    ]


def test_the_level_of_the_log_changes_and_that_of_requests_with_it(
    start: Start, tmp_path: Path
) -> None:
    it = Configured(start, tmp_path, "")
    it.reload("LOG_LEVEL=warn\nRATE_LIMIT=bad")  # nothing of it holds
    get(it.port, "/health?one")
    it.reload("LOG_LEVEL=warn\n")
    get(it.port, "/health?two")
    it.file.write_text("LOG_LEVEL=info\nRATE_LIMIT=7\n")
    it.process.send(signal.SIGHUP)
    it.process.until(lambda: it.stats()["rate_limit"] == 7)
    get(it.port, "/health?three")
    it.process.send(signal.SIGTERM)
    it.process.ended()
    paths = [line["path"] for line in it.process.log if line["event"] == "request"]
    assert "/health?one" in paths
    assert "/health?two" not in paths
    assert "/health?three" in paths


@pytest_twisted.ensureDeferred
async def test_a_hangup_while_it_stops_changes_nothing(
    stand: Stand, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "own.env").write_text("")
    it = await streaming(stand, lambda **settings: start(CONFIG="own.env", **settings))
    it.process.send(signal.SIGTERM)
    await deferToThread(it.process.until, lambda: "draining" in it.process.out)
    (tmp_path / "own.env").write_text("DRAIN_TIMEOUT=0\n")
    it.process.send(signal.SIGHUP)
    await deferToThread(it.process.until, lambda: "is not read again" in it.process.out)
    it.pause.release()
    answer = await it.wire.answer()
    assert (answer.body, answer.cut) == (b"onetwo", False)
    assert await deferToThread(it.process.ended) in (0, -signal.SIGTERM)
    assert_clean(it.process)
