"""What answers cost is counted once, whoever gets them and however they come."""

from __future__ import annotations

import gzip
import json
import socket
from typing import Any

import pytest
import pytest_twisted

from goproxyai.proxy import shared_body
from goproxyai.telemetry.counters import Counters
from tests.integration.test_single_flight import ask_at_once, large, paused, stalled
from tests.support.answers import chunk, event, head, response
from tests.support.harness import ProxyHarness, RawClient, SkewedReactor, eventually, post, request
from tests.support.steps import Close, Pause, Reset, Stream

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
CHUNKED = (b"Transfer-Encoding", b"chunked")
SSE = (b"Content-Type", b"text/event-stream")
GZIP = (b"Content-Encoding", b"gzip")
ASKED = b'{"model":"gpt-4o","messages":[]}'
SEEDED = b'{"model":"gpt-4o","messages":[],"seed":1}'
USED = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
ANSWER = json.dumps({"model": "gpt-4o-2024", "choices": [], "usage": USED}).encode()
ONCE = {"prompt": 100, "completion": 20, "cached": 0, "reasoning": 0}
NONE = dict.fromkeys(ONCE, 0)
WORD = event({"model": "gpt-4o-2024", "choices": [{"delta": {"content": "word"}}], "usage": None})
LAST = event({"model": "gpt-4o-2024", "choices": [], "usage": USED})
DONE = b"data: [DONE]\n\n"


def times(count: int) -> dict[str, int]:
    return {kind: number * count for kind, number in ONCE.items()}


def counters(harness: ProxyHarness) -> Counters:
    assert harness.daemon is not None
    harness.access_log.flush()
    return harness.daemon.context.counters


def told(harness: ProxyHarness) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """What upstream was asked for, what was spared, and what is not known."""
    tokens = counters(harness).tokens
    unknown = {why: count for why, count in tokens.unknown.items() if count}
    return tokens.total("used"), tokens.total("saved"), unknown


def streamed(*parts: Any, fields: tuple[Any, ...] = ()) -> list[Any]:
    """An event stream in chunks, with steps in between."""
    steps: list[Any] = [head(200, [SSE, CHUNKED, *fields])]
    return steps + [chunk(part) if isinstance(part, bytes) else part for part in parts]


@pytest.mark.parametrize("fields", [[], [GZIP]], ids=["plain", "gzip"])
@pytest.mark.parametrize("target", [CHAT, EMBEDDINGS, RESPONSES])
@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest_twisted.ensureDeferred
async def test_an_answer_is_counted_once_in_however_many_pieces_it_comes(
    harness: ProxyHarness, target: str, fields: list[Any], pieces: int
) -> None:
    await harness.start()
    body = gzip.compress(ANSWER) if fields else ANSWER
    if pieces == 1:
        harness.upstream.script(target, response(body, headers=fields))
    else:
        size = len(body) // pieces + 1
        gates = [Pause() for _ in range(pieces - 1)]
        steps: list[Any] = [head(200, [*fields, (b"Content-Length", b"%d" % len(body))])]
        for number in range(pieces):
            steps += [body[number * size : (number + 1) * size], *gates[number : number + 1]]
        harness.upstream.script(target, steps)
    wire = await harness.connect()
    wire.send(post(target, ASKED))
    for number, gate in enumerate(gates if pieces > 1 else (), 1):
        come = body[(number - 1) * size : number * size]
        await wire.until(lambda come=come: come in wire.received)
        await paused(harness)
        gate.release()
    answer = await wire.answer()
    assert answer.body == body
    assert told(harness) == (ONCE, NONE, {})
    assert (await harness.logged())[0]["tokens"] == {"model": "gpt-4o-2024", **ONCE}
    if target != RESPONSES:
        assert (await harness.ask(post(target, ASKED))).get("X-Cache") == b"HIT"
        assert told(harness) == (ONCE, ONCE, {})
        assert (await harness.logged(2))[1]["tokens"] == {"model": "gpt-4o-2024", **ONCE}


@pytest.mark.parametrize("asked", [ASKED, SEEDED], ids=["alone", "shared"])
@pytest.mark.parametrize("coding", [bytes, gzip.compress])
@pytest_twisted.ensureDeferred
async def test_a_stream_is_counted_by_its_last_event(
    harness: ProxyHarness, asked: bytes, coding: Any
) -> None:
    await harness.start()
    body = coding(WORD * 50 + LAST + DONE)
    fields = (GZIP,) if coding is gzip.compress else ()
    pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
    harness.upstream.script(CHAT, streamed(*pieces, b"", fields=fields))
    answer = await harness.ask(post(CHAT, asked))
    assert answer.body == body
    assert told(harness) == (ONCE, NONE, {})
    assert (await harness.ask(post(CHAT, asked))).get("X-Cache") == b"HIT"
    assert told(harness) == (ONCE, ONCE, {})
    assert counters(harness).open_streams == 0


@pytest_twisted.ensureDeferred
async def test_a_stream_that_does_not_say_is_unknown(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(CHAT, streamed(WORD, WORD, DONE, b""))
    await harness.ask(post(CHAT, ASKED))
    assert told(harness) == (NONE, NONE, {"silent": 1})
    await harness.ask(post(CHAT, ASKED))
    assert told(harness) == (NONE, NONE, {"silent": 1}), "a hit costs nothing, known or not"


@pytest.mark.parametrize("asked", [ASKED, SEEDED], ids=["alone", "shared"])
@pytest_twisted.ensureDeferred
async def test_a_stream_that_is_cut_is_unknown(harness: ProxyHarness, asked: bytes) -> None:
    await harness.start()
    harness.upstream.script(CHAT, streamed(WORD, LAST, Reset()))
    answer = await harness.ask(post(CHAT, asked))
    assert answer.cut
    assert told(harness) == (NONE, NONE, {"cut": 1})
    assert "tokens" not in (await harness.logged())[0]
    assert counters(harness).open_streams == 0


@pytest.mark.parametrize("asked", [ASKED, SEEDED], ids=["alone", "shared"])
@pytest_twisted.ensureDeferred
async def test_a_stream_that_the_client_leaves_is_unknown(
    harness: ProxyHarness, asked: bytes
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, streamed(WORD, Pause(), LAST, DONE, b""))
    wire = await harness.connect()
    wire.send(post(CHAT, asked))
    await wire.until(lambda: b"word" in wire.received)
    assert counters(harness).open_streams == 1
    wire.abort()
    await harness.upstream.wait_for(lambda one: one.lost)
    await eventually(harness.reactor, lambda: counters(harness).finished.client_gone)
    assert told(harness) == (NONE, NONE, {"left": 1})
    assert counters(harness).open_streams == 0


@pytest_twisted.ensureDeferred
async def test_a_stream_that_its_connection_ends_is_counted_as_it_says(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, [head(200, [SSE]), WORD + LAST + DONE, Close()])
    assert (await harness.ask(post(CHAT, ASKED))).body == WORD + LAST + DONE
    assert told(harness) == (ONCE, NONE, {})


@pytest.mark.parametrize("target", [CHAT, EMBEDDINGS])
@pytest_twisted.ensureDeferred
async def test_one_answer_for_many_costs_once_and_spares_the_rest(
    harness: ProxyHarness, target: str
) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script(target, [gate, response(ANSWER)])
    wires = await ask_at_once(harness, [post(target, SEEDED)] * 5)
    await paused(harness)
    gate.release()
    for wire in wires:
        assert (await wire.answer()).body == ANSWER
    assert told(harness) == (ONCE, times(4), {})


@pytest_twisted.ensureDeferred
async def test_a_leader_that_leaves_is_paid_for_and_spares_nothing(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script(CHAT, streamed(WORD, gate, LAST, DONE, b""))
    leader, follower = await ask_at_once(harness, [post(CHAT, SEEDED)] * 2)
    await follower.until(lambda: b"word" in follower.received)
    assert counters(harness).open_streams == 2
    leader.abort()
    await leader.wait_closed()
    await eventually(harness.reactor, lambda: counters(harness).finished.client_gone)
    assert counters(harness).open_streams == 1
    gate.release()
    assert (await follower.answer()).body == WORD + LAST + DONE
    assert told(harness) == (ONCE, ONCE, {})
    assert counters(harness).open_streams == 0


@pytest_twisted.ensureDeferred
async def test_a_rescue_spares_what_the_answer_had_cost(harness: ProxyHarness) -> None:
    clock = SkewedReactor(harness.reactor)
    harness.reactor = clock
    await harness.start(CACHE_TTL="1m", CACHE_STALE="1h")
    harness.upstream.script(CHAT, response(b"{}", 503))
    harness.upstream.script(CHAT, response(ANSWER), times=1)
    await harness.ask(post(CHAT, ASKED))
    clock.skew += 120
    answer = await harness.ask(post(CHAT, ASKED))
    assert b"stale-if-error" in (answer.get("Cache-Status") or b"")
    assert told(harness) == (ONCE, ONCE, {})


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request("/v1/chat/completions/chatcmpl-1"), 200),
        (request("/v1/responses/resp_1"), 200),
        (post("/v1/files", b"{}"), 200),
        (post(CHAT, ASKED), 400),
        (post(CHAT, ASKED), 500),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_generated_nothing_costs_nothing(
    harness: ProxyHarness, asked: bytes, status: int
) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, response(ANSWER, status))
    assert (await harness.ask(asked)).status == status
    assert told(harness) == (NONE, NONE, {})


@pytest_twisted.ensureDeferred
async def test_the_gaps_of_a_stream_are_counted_and_its_first_byte_is_not_its_last(
    harness: ProxyHarness,
) -> None:
    await harness.start(LOG_SLOW="1h")
    clock = counters(harness)
    gates = [Pause(), Pause()]
    harness.upstream.script(CHAT, streamed(WORD, gates[0], WORD, gates[1], DONE, b""))
    wire = await harness.connect()
    wire.send(post(CHAT, ASKED))
    for count, gate in enumerate(gates, 1):
        await wire.until(lambda count=count: wire.received.count(b"word") == count)
        await paused(harness)
        gate.release()
    await wire.answer()
    assert clock.durations.stream_gap.count >= 2
    (one,) = await harness.logged()
    assert one["ms"]["upstream"] <= one["ms"]["first_byte"] <= one["ms"]["total"]
    assert counters(harness).durations.first_byte.count == 1
    assert counters(harness).durations.overhead.count == 1


BIG = b"data: " + b"x" * 65_000 + b"\n\n"


async def with_a_laggard(
    harness: ProxyHarness, count: int, which: int
) -> tuple[list[RawClient], RawClient]:
    """Of two who are sent a stream, the others, and the one (by number) that reads no more."""
    wires = await ask_at_once(harness, [post(CHAT, SEEDED)] * 2)
    await paused(harness)
    for wire in wires:
        await wire.until(lambda wire=wire: b"word" in wire.received)
    laggard = wires.pop(which)
    port = laggard.transport.getHost().port
    assert harness.daemon is not None
    (held,) = [
        one.transport.socket
        for one in harness.daemon.listeners.factory.connections
        if one.transport.getPeer().port == port
    ]
    held.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    return wires, stalled(laggard)


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("leads", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_slow_reader_is_noted_as_the_others_are(
    harness: ProxyHarness, leaves: bool, leads: bool
) -> None:
    await harness.start()
    gate, count = Pause(), 40
    head_of_it = head(200, [SSE, CHUNKED, (b"x-request-id", b"req_theirs")])
    rest = [Stream(chunk(BIG), count), chunk(LAST + DONE), chunk(b"")]
    harness.upstream.script(CHAT, [head_of_it, chunk(WORD), gate, *rest])
    wires, laggard = await with_a_laggard(harness, count, 0 if leads else 1)
    gate.release()
    await large(wires, count * len(BIG))
    assert counters(harness).open_streams == 1
    if leaves:
        laggard.abort()
    else:
        laggard.resume_reading()
        await large([laggard], count * len(BIG))
    await eventually(harness.reactor, lambda: counters(harness).finished.count == 2)
    events = await harness.logged(2)
    (its,) = [one for one in events if one["cache"] == ("MISS" if leads else "COALESCED")]
    assert its["upstream_request_id"] == "req_theirs"
    assert ("upstream" in its["ms"]) is leads
    assert told(harness) == (ONCE, NONE if leaves and not leads else ONCE, {})
    assert counters(harness).open_streams == 0


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("whole", (times(2), NONE, {})),
        ("other", (ONCE, NONE, {"cut": 1})),
        ("cut", (ONCE, NONE, {"cut": 1})),
        ("left", (ONCE, NONE, {"left": 1})),
        ("left early", (ONCE, NONE, {"left": 1})),
    ],
)
@pytest_twisted.ensureDeferred
async def test_who_goes_on_by_a_request_of_its_own_is_paid_for_twice(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, how: str, expected: Any
) -> None:
    monkeypatch.setattr(shared_body, "MAX_SHARED_BYTES", 1024 * 1024)
    await harness.start()
    gate, again, more = Pause(), Pause(), Pause()
    count = 40

    def answer(asked: Any) -> Any:
        rest = [Stream(chunk(BIG), count), chunk(LAST + DONE), chunk(b"")]
        begin: list[Any] = [head(200, [SSE, CHUNKED])]
        if asked.number == 1:
            return [*begin, chunk(WORD), gate, *rest]
        if how == "cut":
            rest = [Stream(chunk(BIG), 3), Reset()]
        word = WORD[::-1] if how == "other" else WORD
        return [again, *begin, chunk(word), more, *rest]

    harness.upstream.script(CHAT, answer)
    wires, laggard = await with_a_laggard(harness, count, 1)
    gate.release()
    await large(wires, count * len(BIG))
    await harness.upstream.wait_until(lambda: len(harness.upstream.requests) == 2)
    if how == "left early":
        laggard.abort()
    again.release()
    if how == "left":
        await eventually(harness.reactor, lambda: counters(harness).open_streams == 1)
        laggard.abort()
    more.release()
    if not how.startswith("left"):
        laggard.resume_reading()
        await laggard.until(lambda: laggard.closed or len(laggard.received) > count * len(BIG), 30)
    await eventually(harness.reactor, lambda: counters(harness).finished.count == 2)
    assert told(harness) == expected
    assert counters(harness).open_streams == 0
    assert counters(harness).durations.overhead.total >= 0
    assert all(one["ms"].get("proxy", 0) >= 0 for one in await harness.logged(2))


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_before_the_answer_leaves_its_cost_unknown(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, [Pause(), response(ANSWER)])
    for number, asked in enumerate((ASKED, SEEDED), 1):
        wire = await harness.connect()
        wire.send(post(CHAT, asked))
        await paused(harness)
        wire.abort()
        await eventually(
            harness.reactor, lambda n=number: counters(harness).finished.client_gone == n
        )
        await harness.upstream.wait_until(
            lambda: all(one.lost for one in harness.upstream.requests)
        )
    assert told(harness) == (NONE, NONE, {"left": 2})


# Slow ones, and samples.


@pytest_twisted.ensureDeferred
async def test_a_replay_that_is_left_late_was_not_slow(harness: ProxyHarness) -> None:
    clock = SkewedReactor(harness.reactor)
    harness.reactor = clock
    await harness.start(LOG_SLOW="10s")
    gate = Pause()
    harness.upstream.script(CHAT, streamed(WORD, gate, LAST, DONE, b""))
    first = await harness.connect()
    first.send(post(CHAT, ASKED))
    await first.until(lambda: b"word" in first.received)
    clock.skew += 30
    gate.release()
    await first.answer()
    second = await harness.connect()
    second.send(post(CHAT, ASKED, [("X-Cache-Replay", "paced")]))
    await second.until(lambda: b"word" in second.received)
    assert counters(harness).open_streams == 1
    clock.skew += 15
    second.abort()
    await eventually(harness.reactor, lambda: counters(harness).finished.client_gone == 1)
    assert (counters(harness).open_streams, counters(harness).finished.slow) == (0, 0)
    assert "slow" not in (await harness.logged(2))[1]


@pytest_twisted.ensureDeferred
async def test_slow_requests_are_marked_and_counted(harness: ProxyHarness) -> None:
    clock = SkewedReactor(harness.reactor)
    harness.reactor = clock
    await harness.start(LOG_SLOW="5s", REQUEST_TIMEOUT="1h", IDLE_TIMEOUT="1h")
    gate = Pause()
    harness.upstream.script("/v1/models", [gate, response(b"{}")])
    harness.upstream.script("/v1/quick", response(b"{}"))
    wire = await harness.connect()
    wire.send(request())
    await paused(harness)
    clock.skew += 6
    gate.release()
    await wire.answer()
    await harness.ask(request("/v1/quick"))
    slow, quick = await harness.logged(2)
    assert slow["slow"] is True
    assert "slow" not in quick
    assert counters(harness).finished.slow == 1


@pytest_twisted.ensureDeferred
async def test_a_sample_holds_what_went_wrong_and_all_is_counted(harness: ProxyHarness) -> None:
    await harness.start(LOG_SAMPLE="0", COALESCE="off")
    harness.upstream.script("/v1/bad", response(b"{}", 500))
    for target in ("/v1/models", "/v1/bad", "/v1/models", "/nowhere", "/v1/x"):
        await harness.ask(request(target))
    assert counters(harness).finished.count == 5
    assert [one["path"] for one in harness.events] == ["/v1/bad", "/nowhere", "/v1/x"]
    assert not any("sample" in one for one in harness.events), "each stands for itself alone"


@pytest_twisted.ensureDeferred
async def test_what_stands_for_others_says_for_how_many(harness: ProxyHarness) -> None:
    await harness.start(LOG_SAMPLE="0.5", COALESCE="off")
    for _ in range(64):
        await harness.ask(request())
    counters(harness)
    assert 0 < len(harness.events) < 64
    assert {one["sample"] for one in harness.events} == {0.5}


# Names.


@pytest.mark.parametrize("named", [False, True], ids=["by us alone", "by upstream too"])
@pytest_twisted.ensureDeferred
async def test_a_request_has_a_name_in_its_answer_and_in_the_log(
    harness: ProxyHarness, named: bool
) -> None:
    await harness.start()
    fields = [(b"X-Request-ID", b"req_theirs")] if named else []
    harness.upstream.script("/v1/models", response(b"{}", headers=fields))
    ours = "X-Proxy-Request-Id" if named else "X-Request-Id"
    miss = await harness.ask(request(headers=[("X-Request-Id", "mine-1")]))
    hit = await harness.ask(request(headers=[("X-Request-Id", "mine-2")]))
    made = await harness.ask(request())
    assert (miss.get(ours), hit.get(ours)) == (b"mine-1", b"mine-2")
    assert made.get(ours) not in (None, b"mine-1", b"mine-2")
    for answer in (miss, hit, made):
        assert answer.all("X-Request-Id") == ([b"req_theirs"] if named else answer.all(ours))
        assert len(answer.all(ours)) == 1
    names = [one["request_id"] for one in await harness.logged(3)]
    assert names == ["mine-1", "mine-2", (made.get(ours) or b"").decode()]
    assert dict(harness.upstream.requests[0].headers)[b"X-Request-Id"] == b"mine-1"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x" * 129,
        "a b",
        "a\tb",
        "\xe9",
        "sk-proj-0123456789abcdefghij",
        "Bearer,sk-secret0000000",
        'a"b',
        "a\\b",
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_odd_name_is_replaced(harness: ProxyHarness, given: str) -> None:
    await harness.start()
    answer = await harness.ask(request("/nowhere", headers=[("X-Request-Id", given)]))
    name = (answer.get("X-Request-Id") or b"").decode()
    assert name
    assert name != given
    assert (await harness.logged())[0]["request_id"] == name


@pytest_twisted.ensureDeferred
async def test_two_names_are_none(harness: ProxyHarness) -> None:
    await harness.start()
    asked = request(headers=[("X-Request-Id", "one"), ("X-Request-Id", "two")])
    answer = await harness.ask(asked)
    assert (await harness.logged())[0]["request_id"] not in ("one", "two", "one, two")
    assert answer.status == 200


@pytest_twisted.ensureDeferred
async def test_no_two_requests_have_the_same_name(harness: ProxyHarness) -> None:
    await harness.start()
    names = []
    wire = await harness.connect()
    for _ in range(600):
        wire.send(request("/v1/models"))
        answer = await wire.answer()
        names.append(answer.get("X-Proxy-Request-Id") or answer.get("X-Request-Id"))
    assert len(set(names)) == 600


@pytest_twisted.ensureDeferred
async def test_a_name_that_upstream_keeps_to_its_hop_or_takes_from_us_does_not_count(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    theirs = [
        (b"Connection", b"x-request-id"),
        (b"x-request-id", b"a"),
        (b"X-Proxy-Request-Id", b"b"),
    ]
    harness.upstream.script(lambda _: True, response(b"{}", headers=theirs))
    for asked in (request(), request(), post(CHAT, SEEDED), post("/v1/files", b"{}")):
        answer = await harness.ask(asked)
        assert len(answer.all("X-Request-Id")) == 1
        assert answer.all("X-Request-Id") != [b"a"]
        assert answer.all("X-Proxy-Request-Id") == []


@pytest_twisted.ensureDeferred
async def test_a_body_that_no_page_of_ours_takes_is_refused_by_name(harness: ProxyHarness) -> None:
    await harness.start()
    asked = request("/health", headers=[("X-Request-Id", "mine")], body=b"x" * 70_000)
    answer = await harness.ask(asked)
    assert (answer.status, answer.get("X-Request-Id")) == (413, b"mine")


@pytest.mark.parametrize("target", ["/health", "/stats", "/nowhere", "/v1%2fx"])
@pytest_twisted.ensureDeferred
async def test_our_own_pages_and_errors_say_the_name_too(
    harness: ProxyHarness, target: str
) -> None:
    await harness.start()
    answer = await harness.ask(request(target, headers=[("X-Request-Id", "mine")]))
    assert answer.all("X-Request-Id") == [b"mine"]
