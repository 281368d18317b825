"""Egress through a SOCKS 5 proxy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from tests.support.harness import Answer, ProxyHarness, eventually, request
from tests.support.socks import FakeSocks

pytestmark = pytest.mark.usefixtures("collect_garbage")

HOST = "api.openai.test"

Start = Callable[..., Coroutine[Any, Any, FakeSocks]]


@pytest_twisted.async_yield_fixture
async def start(harness: ProxyHarness) -> AsyncIterator[Start]:
    """Start a SOCKS proxy and a daemon that uses it."""
    started: list[FakeSocks] = []

    async def starts(
        scheme: str = "socks5h",
        userinfo: str = "",
        upstream: str = f"https://{HOST}",
        **texts: str,
    ) -> FakeSocks:
        if upstream.startswith("https"):
            await harness.listen_with_tls()
        else:
            harness.upstream_port = await harness.upstream.listen(harness.loopback())
        socks = FakeSocks(harness.reactor, harness.upstream_port)
        started.append(socks)
        port = await socks.listen()
        await harness.start(upstream, PROXY_URL=f"{scheme}://{userinfo}127.0.0.1:{port}", **texts)
        return socks

    yield starts
    assert harness.daemon is not None
    harness.daemon.agent.pool.close()
    for socks in started:
        await socks.close()


def error_of(answer: Answer) -> dict[str, str]:
    error: dict[str, str] = json.loads(answer.body)["error"]
    return error


@pytest.mark.parametrize(
    ("upstream", "port"),
    [(f"https://{HOST}", 443), (f"http://{HOST}", 80), (f"http://{HOST}:81", 81)],
)
@pytest_twisted.ensureDeferred
async def test_socks5h_lets_the_proxy_resolve(
    harness: ProxyHarness, start: Start, upstream: str, port: int
) -> None:
    harness.names()  # none resolves here
    socks = await start(upstream=upstream)
    client = await harness.connect()
    for number in range(2):
        client.send(request(f"/v1/models?{number}"))
        assert (await client.answer()).status == 200
    assert socks.requested == [(HOST, port)]
    received = harness.upstream.requests[0]
    assert received.target == b"/v1/models?0"
    assert received.header(b"host") == upstream.partition("://")[2].encode()


@pytest_twisted.ensureDeferred
async def test_socks5_resolves_here(harness: ProxyHarness, start: Start) -> None:
    harness.resolve({HOST: "192.0.2.7"})
    socks = await start("socks5")
    assert (await harness.ask(request())).status == 200
    assert socks.requested == [("192.0.2.7", 443)]


@pytest_twisted.ensureDeferred
async def test_next_address_is_tried_if_one_is_unreachable(
    harness: ProxyHarness, start: Start
) -> None:
    harness.resolve({HOST: "192.0.2.1 192.0.2.2 192.0.2.3"})
    socks = await start("socks5")
    socks.replies = [4, 5]
    assert (await harness.ask(request())).status == 200
    assert [host for host, _ in socks.requested] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


@pytest_twisted.ensureDeferred
async def test_number_of_addresses_is_bounded(harness: ProxyHarness, start: Start) -> None:
    harness.resolve({HOST: " ".join(f"192.0.2.{number}" for number in range(1, 10))})
    socks = await start("socks5", BREAKER="0")
    socks.replies = [4] * 50
    answer = await harness.ask(request(method="POST", body=b"{}"))
    assert error_of(answer)["code"] == "egress_proxy_refused"
    assert {host for host, _ in socks.requested} == {f"192.0.2.{number}" for number in range(1, 5)}


@pytest_twisted.ensureDeferred
async def test_address_that_the_rules_refuse_is_the_last(
    harness: ProxyHarness, start: Start
) -> None:
    harness.resolve({HOST: "192.0.2.1 192.0.2.2"})
    socks = await start("socks5")
    socks.replies = [2]
    error = error_of(await harness.ask(request()))
    assert error["code"] == "egress_proxy_refused"
    assert "allow the host" in error["message"]
    assert len(socks.requested) == 1


@pytest_twisted.ensureDeferred
async def test_name_that_does_not_resolve_here_is_a_502(
    harness: ProxyHarness, start: Start
) -> None:
    harness.names()
    socks = await start("socks5")
    assert error_of(await harness.ask(request()))["code"] == "upstream_unreachable"
    assert socks.requested == []


@pytest_twisted.ensureDeferred
async def test_credentials_are_presented(harness: ProxyHarness, start: Start) -> None:
    socks = await start(userinfo="us%3Aer:p%40ss@")
    socks.credentials = (b"us:er", b"p@ss")
    assert (await harness.ask(request())).status == 200
    assert socks.presented == [(b"us:er", b"p@ss")]


@pytest.mark.parametrize("userinfo", ["", "user:hunter2@"])
@pytest_twisted.ensureDeferred
async def test_wrong_credentials_are_a_502_without_them(
    harness: ProxyHarness, start: Start, userinfo: str
) -> None:
    socks = await start(userinfo=userinfo)
    socks.credentials = (b"user", b"p@ss")
    answer = await harness.ask(request())
    error = error_of(answer)
    assert error["code"] == "egress_proxy_refused"
    assert "check the user and the password in PROXY_URL" in error["message"]
    (event,) = await harness.logged()
    stats = (await harness.ask(request("/stats"))).body.decode()
    assert "hunter2" not in answer.body.decode() + repr(event) + stats
    if userinfo:
        assert "socks5h://***:***@127.0.0.1" in stats


ANSWERS = {
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "socks4": b"\0\x5a" + bytes(6),
    "nothing": b"",
    "half": b"\5",
    "cut_in_reply": b"\5\0\5\0\0\1\0",
    "unknown_address_type": b"\5\0\5\0\0\x09\0\0\0\0\0\0",
    "method_not_offered": b"\5\2",
}


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
@pytest_twisted.ensureDeferred
async def test_other_answer_is_a_502(harness: ProxyHarness, start: Start, answers: bytes) -> None:
    socks = await start()
    socks.answers, socks.closes = answers, True
    error = error_of(await harness.ask(request()))
    assert error["code"] == "egress_proxy_refused"
    assert "SOCKS 5" in error["message"]
    socks.answers = None
    assert (await harness.ask(request())).status == 200


@pytest_twisted.ensureDeferred
async def test_answers_in_single_bytes_open_the_tunnel(harness: ProxyHarness, start: Start) -> None:
    socks = await start(userinfo="user:p%40ss@")
    socks.credentials, socks.dribbles = (b"user", b"p@ss"), True
    assert (await harness.ask(request())).status == 200


@pytest_twisted.ensureDeferred
async def test_silent_proxy_is_a_504_within_connect_timeout(
    harness: ProxyHarness, start: Start
) -> None:
    socks = await start(CONNECT_TIMEOUT="100ms")
    socks.answers = b"\5"
    answer = await harness.ask(request())
    assert (answer.status, error_of(answer)["code"]) == (504, "upstream_timeout")
    await eventually(harness.reactor, lambda: not socks.open)


@pytest_twisted.ensureDeferred
async def test_client_that_leaves_ends_the_attempt(harness: ProxyHarness, start: Start) -> None:
    harness.resolve({HOST: "192.0.2.1 192.0.2.2"})
    socks = await start("socks5")
    socks.answers = b""
    client = await harness.connect()
    client.send(request())
    await eventually(harness.reactor, lambda: socks.open)
    client.abort()
    await eventually(harness.reactor, lambda: not socks.open)
    await deferLater(harness.reactor, 0)
    assert socks.requested == []


@pytest_twisted.ensureDeferred
async def test_certificate_of_upstream_is_verified_in_the_tunnel(
    harness: ProxyHarness, start: Start
) -> None:
    await start(upstream="https://other.test")
    assert error_of(await harness.ask(request()))["code"] == "upstream_tls_failed"


@pytest_twisted.ensureDeferred
async def test_no_proxy_applies(harness: ProxyHarness, start: Start) -> None:
    harness.resolve({HOST: "127.0.0.1"})
    harness.upstream_port = await harness.upstream.listen(harness.loopback())
    socks = FakeSocks(harness.reactor, harness.upstream_port)
    port = await socks.listen()
    await harness.start(
        f"http://{HOST}:{harness.upstream_port}",
        PROXY_URL=f"socks5h://127.0.0.1:{port}",
        NO_PROXY=HOST,
    )
    assert (await harness.ask(request())).status == 200
    assert socks.requested == []
    await socks.close()
