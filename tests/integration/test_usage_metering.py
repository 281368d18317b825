"""Token usage is counted once for each answer of upstream, and as saved for others."""

from __future__ import annotations

import gzip
import json
import socket
from typing import Any

import pytest
import pytest_twisted

from goproxyai.proxy import shared_body
from goproxyai.telemetry.counters import Counters
from goproxyai.usage.prices import parse
from goproxyai.usage.totals import KINDS
from tests.integration.concurrent_requests import (
    large_answers,
    send_concurrently,
    stall,
    wait_for_pauses,
)
from tests.support.answers import chunk, event, head, response
from tests.support.harness import ProxyHarness, RawClient, SkewedReactor, eventually, post, request
from tests.support.steps import Close, Pause, Reset, Stream

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
CHUNKED = (b"Transfer-Encoding", b"chunked")
SSE = (b"Content-Type", b"text/event-stream")
GZIP = (b"Content-Encoding", b"gzip")
JSON_TYPE = (b"Content-Type", b"application/json")
PLAIN = b'{"model":"gpt-6.2-sol","messages":[]}'
SEEDED = b'{"model":"gpt-6.2-sol","messages":[],"seed":1}'
USED = {
    "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 60},
}  # fmt: skip
ANSWER = json.dumps(
    {"model": "gpt-6.2-sol-2026", "choices": [], "data": [0], "usage": USED}
).encode()
ONCE = {"prompt": 100, "completion": 20, "cached": 0, "reasoning": 0, "cache_write": 60}
NONE = dict.fromkeys(ONCE, 0)
WORD = event(
    {"model": "gpt-6.2-sol-2026", "choices": [{"delta": {"content": "word"}}], "usage": None}
)
STOP = event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
LAST = STOP + event({"model": "gpt-6.2-sol-2026", "choices": [], "usage": USED})
DONE = b"data: [DONE]\n\n"


def times(count: int) -> dict[str, int]:
    return {kind: number * count for kind, number in ONCE.items()}


def counters(harness: ProxyHarness) -> Counters:
    assert harness.daemon is not None
    harness.access_log.flush()
    return harness.daemon.context.counters


def usage_counts(harness: ProxyHarness) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return used tokens, saved tokens, and the answers without usage by reason."""
    tokens = counters(harness).tokens
    unknown = {reason: count for reason, count in tokens.unknown.items() if count}
    used, saved = tokens.total("used"), tokens.total("saved")
    assert all(used.pop(kind) == saved.pop(kind) == 0 for kind in KINDS if kind not in ONCE)
    return used, saved, unknown


def streamed(*parts: Any, fields: tuple[Any, ...] = ()) -> list[Any]:
    """Return the steps of an event stream; *parts* are chunks or steps."""
    steps: list[Any] = [head(200, [SSE, CHUNKED, *fields])]
    return steps + [chunk(part) if isinstance(part, bytes) else part for part in parts]


@pytest.mark.parametrize("fields", [[], [GZIP]], ids=["plain", "gzip"])
@pytest.mark.parametrize("target", [CHAT, EMBEDDINGS, RESPONSES])
@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest_twisted.ensureDeferred
async def test_answer_in_pieces_is_counted_once(
    harness: ProxyHarness, target: str, fields: list[Any], pieces: int
) -> None:
    await harness.start()
    body = gzip.compress(ANSWER) if fields else ANSWER
    if pieces == 1:
        harness.upstream.script(target, response(body, headers=fields))
    else:
        size = len(body) // pieces + 1
        gates = [Pause() for _ in range(pieces - 1)]
        headers = [*fields, JSON_TYPE, (b"Content-Length", b"%d" % len(body))]
        steps: list[Any] = [head(200, headers)]
        for number in range(pieces):
            steps += [body[number * size : (number + 1) * size], *gates[number : number + 1]]
        harness.upstream.script(target, steps)
    wire = await harness.connect()
    wire.send(post(target, PLAIN))
    for number, gate in enumerate(gates if pieces > 1 else (), 1):
        piece = body[(number - 1) * size : number * size]
        await wire.until(lambda piece=piece: piece in wire.received)
        await wait_for_pauses(harness)
        gate.release()
    answer = await wire.answer()
    assert answer.body == body
    assert usage_counts(harness) == (ONCE, NONE, {})
    assert (await harness.logged())[0]["tokens"] == {"model": "gpt-6.2-sol-2026", **ONCE}
    if target != RESPONSES:
        assert (await harness.ask(post(target, PLAIN))).get("X-Cache") == b"HIT"
        assert usage_counts(harness) == (ONCE, ONCE, {})
        assert (await harness.logged(2))[1]["tokens"] == {"model": "gpt-6.2-sol-2026", **ONCE}


@pytest.mark.parametrize("asked", [PLAIN, SEEDED], ids=["alone", "shared"])
@pytest.mark.parametrize("coding", [bytes, gzip.compress])
@pytest_twisted.ensureDeferred
async def test_stream_is_counted_by_its_last_event(
    harness: ProxyHarness, asked: bytes, coding: Any
) -> None:
    await harness.start()
    body = coding(WORD * 50 + LAST + DONE)
    fields = (GZIP,) if coding is gzip.compress else ()
    pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
    harness.upstream.script(CHAT, streamed(*pieces, b"", fields=fields))
    answer = await harness.ask(post(CHAT, asked))
    assert answer.body == body
    assert usage_counts(harness) == (ONCE, NONE, {})
    assert (await harness.ask(post(CHAT, asked))).get("X-Cache") == b"HIT"
    assert usage_counts(harness) == (ONCE, ONCE, {})
    assert counters(harness).open_streams == 0


@pytest_twisted.ensureDeferred
async def test_cache_writes_are_priced_and_exported(harness: ProxyHarness) -> None:
    await harness.start()
    counters(harness).tokens.prices = parse(
        b'{"gpt-6.2-sol": {"prompt": 2, "cache_write": 2.5, "completion": 10}}'
    )
    harness.upstream.script(CHAT, response(ANSWER))
    assert b"goproxyai_tokens_total{" not in (await harness.ask(request("/metrics"))).body
    await harness.ask(post(CHAT, PLAIN))
    await harness.ask(post(CHAT, PLAIN))
    cost = (40 * 2 + 60 * 2.5 + 20 * 10) / 1e6
    stats = json.loads((await harness.ask(request("/stats"))).body)["tokens"]
    assert stats["money"] == {"spent": cost, "saved": cost}
    assert stats["models"]["gpt-6.2-sol-2026"]["cache"]["cache_write"] == 60
    text = (await harness.ask(request("/metrics"))).body
    for kind, number in ONCE.items():
        for source in ("upstream", "cache"):
            name = f'kind="{kind}",model="gpt-6.2-sol-2026",source="{source}"'
            assert f"goproxyai_tokens_total{{{name}}} {number}.0\n".encode() in text
    assert b'kind="audio_prompt"' not in text


@pytest_twisted.ensureDeferred
async def test_stream_without_usage_is_silent(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(CHAT, streamed(WORD, WORD, STOP, DONE, b""))
    await harness.ask(post(CHAT, PLAIN))
    assert usage_counts(harness) == (NONE, NONE, {"silent": 1})
    await harness.ask(post(CHAT, PLAIN))
    assert usage_counts(harness) == (NONE, NONE, {"silent": 1})


@pytest.mark.parametrize("asked", [PLAIN, SEEDED], ids=["alone", "shared"])
@pytest_twisted.ensureDeferred
async def test_cut_stream_is_unknown(harness: ProxyHarness, asked: bytes) -> None:
    await harness.start()
    harness.upstream.script(CHAT, streamed(WORD, LAST, Reset()))
    answer = await harness.ask(post(CHAT, asked))
    assert answer.cut
    assert usage_counts(harness) == (NONE, NONE, {"cut": 1})
    assert "tokens" not in (await harness.logged())[0]
    assert counters(harness).open_streams == 0


@pytest.mark.parametrize("asked", [PLAIN, SEEDED], ids=["alone", "shared"])
@pytest_twisted.ensureDeferred
async def test_stream_that_the_client_leaves_is_unknown(
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
    assert usage_counts(harness) == (NONE, NONE, {"left": 1})
    assert counters(harness).open_streams == 0


@pytest_twisted.ensureDeferred
async def test_stream_delimited_by_close_is_counted(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, [head(200, [SSE]), WORD + LAST + DONE, Close()])
    assert (await harness.ask(post(CHAT, PLAIN))).body == WORD + LAST + DONE
    assert usage_counts(harness) == (ONCE, NONE, {})


@pytest.mark.parametrize("target", [CHAT, EMBEDDINGS])
@pytest_twisted.ensureDeferred
async def test_shared_answer_is_used_once_and_saved_for_the_others(
    harness: ProxyHarness, target: str
) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script(target, [gate, response(ANSWER)])
    wires = await send_concurrently(harness, [post(target, SEEDED)] * 5)
    await wait_for_pauses(harness)
    gate.release()
    for wire in wires:
        assert (await wire.answer()).body == ANSWER
    assert usage_counts(harness) == (ONCE, times(4), {})


@pytest_twisted.ensureDeferred
async def test_leader_that_leaves_counts_as_used(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script(CHAT, streamed(WORD, gate, LAST, DONE, b""))
    leader, follower = await send_concurrently(harness, [post(CHAT, SEEDED)] * 2)
    await follower.until(lambda: b"word" in follower.received)
    assert counters(harness).open_streams == 2
    leader.abort()
    await leader.wait_closed()
    await eventually(harness.reactor, lambda: counters(harness).finished.client_gone)
    assert counters(harness).open_streams == 1
    gate.release()
    assert (await follower.answer()).body == WORD + LAST + DONE
    assert usage_counts(harness) == (ONCE, ONCE, {})
    assert counters(harness).open_streams == 0


@pytest_twisted.ensureDeferred
async def test_stale_answer_counts_as_saved(harness: ProxyHarness) -> None:
    clock = SkewedReactor(harness.reactor)
    harness.reactor = clock
    await harness.start(CACHE_TTL="1m", CACHE_STALE="1h")
    harness.upstream.script(CHAT, response(b"{}", 503))
    harness.upstream.script(CHAT, response(ANSWER), times=1)
    await harness.ask(post(CHAT, PLAIN))
    clock.skew += 120
    answer = await harness.ask(post(CHAT, PLAIN))
    assert b"stale-if-error" in (answer.get("Cache-Status") or b"")
    assert usage_counts(harness) == (ONCE, ONCE, {})


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request("/v1/chat/completions/chatcmpl-1"), 200),
        (request("/v1/responses/resp_1"), 200),
        (post("/v1/files", b"{}"), 200),
        (post(CHAT, PLAIN), 400),
        (post(CHAT, PLAIN), 500),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_requests_have_no_usage(
    harness: ProxyHarness, asked: bytes, status: int
) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, response(ANSWER, status))
    assert (await harness.ask(asked)).status == status
    assert usage_counts(harness) == (NONE, NONE, {})


@pytest_twisted.ensureDeferred
async def test_stream_gaps_and_first_byte_are_timed(
    harness: ProxyHarness,
) -> None:
    await harness.start(LOG_SLOW="1h")
    durations = counters(harness).durations
    gates = [Pause(), Pause()]
    harness.upstream.script(CHAT, streamed(WORD, gates[0], WORD, gates[1], DONE, b""))
    wire = await harness.connect()
    wire.send(post(CHAT, PLAIN))
    for count, gate in enumerate(gates, 1):
        await wire.until(lambda count=count: wire.received.count(b"word") == count)
        await wait_for_pauses(harness)
        gate.release()
    await wire.answer()
    assert durations.stream_gap.count >= 2
    (one,) = await harness.logged()
    assert one["ms"]["upstream"] <= one["ms"]["first_byte"] <= one["ms"]["total"]
    assert counters(harness).durations.first_byte.count == 1
    assert counters(harness).durations.overhead.count == 1


BIG = b"data: " + b"x" * 65_000 + b"\n\n"


async def with_slow_client(
    harness: ProxyHarness, count: int, which: int
) -> tuple[list[RawClient], RawClient]:
    """Start a stream to two clients; return the other clients, and client *which*, which stalls."""
    wires = await send_concurrently(harness, [post(CHAT, SEEDED)] * 2)
    await wait_for_pauses(harness)
    for wire in wires:
        await wire.until(lambda wire=wire: b"word" in wire.received)
    slow = wires.pop(which)
    port = slow.transport.getHost().port
    assert harness.daemon is not None
    (connection_socket,) = [
        one.transport.socket
        for one in harness.daemon.listeners.factory.connections
        if one.transport.getPeer().port == port
    ]
    connection_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    return wires, stall(slow)


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("leads", [True, False])
@pytest_twisted.ensureDeferred
async def test_slow_client_has_an_event_and_usage_as_the_others(
    harness: ProxyHarness, leaves: bool, leads: bool
) -> None:
    await harness.start()
    gate, count = Pause(), 40
    stream_head = head(200, [SSE, CHUNKED, (b"x-request-id", b"req_upstream")])
    rest = [Stream(chunk(BIG), count), chunk(LAST + DONE), chunk(b"")]
    harness.upstream.script(CHAT, [stream_head, chunk(WORD), gate, *rest])
    wires, slow = await with_slow_client(harness, count, 0 if leads else 1)
    gate.release()
    await large_answers(wires, count * len(BIG))
    assert counters(harness).open_streams == 1
    if leaves:
        slow.abort()
    else:
        slow.resume_reading()
        await large_answers([slow], count * len(BIG))
    await eventually(harness.reactor, lambda: counters(harness).finished.count == 2)
    events = await harness.logged(2)
    (event_of_slow,) = [one for one in events if one["cache"] == ("MISS" if leads else "COALESCED")]
    assert event_of_slow["upstream_request_id"] == "req_upstream"
    assert ("upstream" in event_of_slow["ms"]) is leads
    assert usage_counts(harness) == (ONCE, NONE if leaves and not leads else ONCE, {})
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
async def test_restarted_answer_is_used_twice(
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
    wires, slow = await with_slow_client(harness, count, 1)
    gate.release()
    await large_answers(wires, count * len(BIG))
    await harness.upstream.wait_until(lambda: len(harness.upstream.requests) == 2)
    if how == "left early":
        slow.abort()
    again.release()
    if how == "left":
        await eventually(harness.reactor, lambda: counters(harness).open_streams == 1)
        slow.abort()
    more.release()
    if not how.startswith("left"):
        slow.resume_reading()
        await slow.until(lambda: slow.closed or slow.received_size > count * len(BIG), 30)
    await eventually(harness.reactor, lambda: counters(harness).finished.count == 2)
    assert usage_counts(harness) == expected
    assert counters(harness).open_streams == 0
    assert counters(harness).durations.overhead.total >= 0
    assert all(one["ms"].get("proxy", 0) >= 0 for one in await harness.logged(2))


@pytest_twisted.ensureDeferred
async def test_client_gone_before_the_answer_is_unknown(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, [Pause(), response(ANSWER)])
    for number, asked in enumerate((PLAIN, SEEDED), 1):
        wire = await harness.connect()
        wire.send(post(CHAT, asked))
        await wait_for_pauses(harness)
        wire.abort()
        await eventually(
            harness.reactor, lambda n=number: counters(harness).finished.client_gone == n
        )
        await harness.upstream.wait_until(
            lambda: all(one.lost for one in harness.upstream.requests)
        )
    assert usage_counts(harness) == (NONE, NONE, {"left": 2})
