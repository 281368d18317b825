"""The way out: through an egress proxy or past it, and the agent that goes it."""

from __future__ import annotations

import base64
import gc
import io
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import pytest
import pytest_twisted
import treq
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import (
    SSL4ServerEndpoint,
    TCP4ClientEndpoint,
    TCP6ServerEndpoint,
)
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.web.client import FileBodyProducer, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface.verify import verifyObject

from goproxyai.config.settings import ProxyURL
from goproxyai.egress.agent import RelayAgent
from goproxyai.egress.connect_endpoint import ConnectEndpoint
from goproxyai.egress.routes import Routes
from goproxyai.egress.tls import tls_to
from goproxyai.egress.treq_client import RelayClient
from goproxyai.http11 import connection_pool as pool
from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.connection_deadlines import Timeouts
from goproxyai.http11.errors import ConnectionBroken, UpstreamTimeout
from goproxyai.messages.connect import ConnectMalformed, ConnectRefused
from goproxyai.reactor.deadlines import Ticker
from goproxyai.upstream.no_proxy import parse_no_proxy
from tests.support.answers import chunk, response
from tests.support.authority import Authority
from tests.support.harness import KEY, Stand, Wire, eventually, post, request
from tests.support.proxy import ESTABLISHED, FakeProxy, Splice
from tests.support.serving import loopback
from tests.support.steps import Answer as Script
from tests.support.steps import Cut, Dribble, Pause, Reset
from tests.support.upstream import FakeUpstream

BASIC = b"Basic " + base64.b64encode(b"user:p@ss")
TARGET = "api.openai.test:443"


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@pytest.fixture(autouse=True)
def nothing_unhandled(failures: list[Any]) -> Iterator[None]:
    """Collect what was forgotten, so that an error that nobody handled is logged now."""
    yield
    gc.collect()


async def through(
    stand: Stand,
    userinfo: str = "",
    credentials: tuple[str, str] | None = None,
    upstream: str = "https://api.openai.test",
    scheme: str = "http",
    **texts: str,
) -> FakeProxy:
    """Start the daemon behind a proxy."""
    if upstream.startswith("https"):
        await stand.listen_with_tls()
    else:
        stand.upstream_port = await stand.upstream.listen(stand.loopback())
    proxy, port = await stand.egress(credentials, tls=scheme == "https")
    await stand.start(upstream, PROXY_URL=f"{scheme}://{userinfo}127.0.0.1:{port}", **texts)
    return proxy


# A tunnel.


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("userinfo", ["", "user:p%40ss@"], ids=["nobody", "user"])
@pytest_twisted.ensureDeferred
async def test_https_goes_through_a_tunnel_and_each_side_sees_its_own_credentials_only(
    stand: Stand, userinfo: str, scheme: str
) -> None:
    credentials = ("user", "p@ss") if userinfo else None
    proxy = await through(stand, userinfo, credentials, scheme=scheme, CACHE_TTL="0")
    for _ in range(2):
        answer = await stand.ask(post("/v1/chat/completions", b'{"model":"m"}'))
        assert (answer.status, answer.get("X-Cache")) == (200, b"MISS")
    (connect,) = proxy.requests
    assert (connect.method, connect.target, connect.version) == (b"CONNECT", TARGET.encode(), "1.1")
    assert connect.all(b"host") == [TARGET.encode()]
    assert connect.all(b"proxy-authorization") == ([BASIC] if userinfo else [])
    assert {name.lower() for name, _ in connect.headers} <= {b"host", b"proxy-authorization"}
    for seen in stand.upstream.requests:
        assert seen.target == b"/v1/chat/completions"
        assert seen.all(b"host") == [b"api.openai.test"]
        assert seen.all(b"authorization") == [KEY]
        assert not [name for name, _ in seen.headers if name.lower().startswith(b"proxy-")]
    assert len(stand.upstream.requests) == 2
    assert len(proxy.tunnels) == 1


@pytest_twisted.ensureDeferred
async def test_a_clients_own_proxy_credentials_go_nowhere(stand: Stand) -> None:
    proxy = await through(stand)
    await stand.ask(request(headers=[("Proxy-Authorization", "Basic bWluZQ==")]))
    assert proxy.requests[0].all(b"proxy-authorization") == []
    assert stand.upstream.requests[0].all(b"proxy-authorization") == []


def refusal(status: int) -> bytes:
    challenge = (b"Proxy-Authenticate", b'Basic realm="fake"')
    return response(b"no", status, [challenge, (b"Connection", b"close")], b"text/plain")


REFUSALS: dict[str, Script] = {
    **{str(status): refusal(status) for status in (301, 400, 403, 404, 407, 429, 500, 502, 503)},
    "garbage": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "closed": [Cut()],
    "reset": [Reset()],
    "closed_inside_the_head": [b"HTTP/1.1 200 Connection", Cut()],
    "over_16_kib": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 20000,
    "interim_for_ever": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
    "407_that_dribbles": [Dribble(refusal(407)[:60], 0.002), refusal(407)[60:]],
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
@pytest_twisted.ensureDeferred
async def test_a_proxy_that_grants_no_tunnel_is_a_502(
    stand: Stand, answer: Script, scheme: str
) -> None:
    proxy = await through(stand, scheme=scheme)
    script = proxy.script(TARGET, answer)
    wire = await stand.connect()
    wire.send(request())
    refused = await wire.answer()
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (
        502,
        "egress_proxy_refused",
    )
    assert refused.get("Proxy-Authenticate") is None
    assert refused.get("X-Cache") == b"MISS"
    assert [each["code"] for each in await stand.logged()] == ["egress_proxy_refused"]
    assert len(stand.upstream.requests) == 0
    script.times = 0
    wire.send(request())
    assert (await wire.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_the_log_of_a_refusal_holds_no_credentials(stand: Stand) -> None:
    await through(stand, "user:wr0ng@", ("user", "p@ss"))
    assert (await stand.ask(request())).status == 502
    (event,) = await stand.logged()
    assert "407" in event["detail"]
    assert "wr0ng" not in repr(event)
    assert base64.b64encode(b"user:wr0ng").decode() not in repr(event)


@pytest_twisted.ensureDeferred
async def test_a_target_that_the_proxy_cannot_reach_is_a_502(stand: Stand) -> None:
    proxy = await through(stand)
    proxy.names.clear()
    answer = await stand.ask(request())
    assert json.loads(answer.body)["error"]["code"] == "egress_proxy_refused"


GRANTS: dict[str, Script] = {
    "200": [ESTABLISHED, Splice()],
    "204": [b"HTTP/1.1 204 Fine\r\n\r\n", Splice()],
    "http_1_0": [b"HTTP/1.0 200 Connection established\r\n\r\n", Splice()],
    "claims_a_length": [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Splice()],
    "claims_chunks": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Splice()],
    "behind_an_interim_answer": [b"HTTP/1.1 100 Continue\r\n\r\n" + ESTABLISHED, Splice()],
    "dribbles": [Dribble(ESTABLISHED, 0.002), Splice()],
}


@pytest.mark.parametrize("answer", GRANTS.values(), ids=GRANTS)
@pytest_twisted.ensureDeferred
async def test_any_2xx_opens_the_tunnel_however_it_comes(stand: Stand, answer: Script) -> None:
    proxy = await through(stand)
    proxy.script(TARGET, answer)
    assert (await stand.ask(request())).status == 200


@pytest_twisted.ensureDeferred
async def test_a_tunnel_that_is_closed_at_once_is_a_502(stand: Stand) -> None:
    proxy = await through(stand)
    proxy.script(TARGET, [ESTABLISHED, Cut()])
    answer = await stand.ask(request())
    assert answer.status == 502
    code = json.loads(answer.body)["error"]["code"]
    assert code in ("upstream_unreachable", "upstream_tls_failed")


@pytest_twisted.ensureDeferred
async def test_bytes_behind_the_grant_that_are_no_tls_are_a_502(stand: Stand) -> None:
    proxy = await through(stand)
    proxy.script(TARGET, [ESTABLISHED + b"welcome to the tunnel", Pause()])
    answer = await stand.ask(request())
    assert json.loads(answer.body)["error"]["code"] == "upstream_tls_failed"
    await proxy.wait_closed()


@pytest_twisted.ensureDeferred
async def test_the_deadline_of_connecting_holds_over_tcp_connect_and_tls_together(
    stand: Stand,
) -> None:
    proxy = await through(stand, CONNECT_TIMEOUT="300ms")
    proxy.script(TARGET, [Dribble(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.02, 25)])
    answer = await stand.ask(request())
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (504, "upstream_timeout")
    await proxy.wait_closed(patience=1.0)


@pytest_twisted.ensureDeferred
async def test_a_stream_passes_a_tunnel_in_tls_in_tls(stand: Stand) -> None:
    proxy = await through(stand, scheme="https")
    body = bytes(range(256)) * 4096
    gate = Pause()
    pieces = [body[:1000], body[1000:]]
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    stand.upstream.script(
        "/v1/files", [head + chunk(pieces[0]), gate, chunk(pieces[1]), chunk(b"")]
    )
    wire = await stand.connect()
    wire.send(request("/v1/files", "POST", body=body))
    await wire.until(lambda: pieces[0] in wire.came)
    gate.release()
    answer = await wire.answer()
    assert answer.body == body
    assert stand.upstream.requests[0].body == body
    assert len(proxy.tunnels) == 1


# Without a tunnel.


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_http_goes_to_the_proxy_in_absolute_form_with_credentials_each_time(
    stand: Stand, scheme: str
) -> None:
    proxy = await through(
        stand,
        "user:p%40ss@",
        ("user", "p@ss"),
        "http://api.openai.test/base",
        scheme,
        CACHE_TTL="0",
    )
    for _ in range(2):
        await stand.ask(request("/v1/models?a=%20&b"))
    assert [each.method for each in proxy.requests] == [b"GET", b"GET"]
    assert [each.connection for each in proxy.requests] == [1, 1]
    for asked in proxy.requests:
        assert asked.target == b"http://api.openai.test/base/v1/models?a=%20&b"
        assert asked.all(b"proxy-authorization") == [BASIC]
        assert asked.all(b"host") == [b"api.openai.test"]
    for seen in stand.upstream.requests:
        assert seen.target == b"/base/v1/models?a=%20&b"
        assert seen.all(b"host") == [b"api.openai.test"]


@pytest_twisted.ensureDeferred
async def test_an_upload_goes_through_the_proxy_without_a_tunnel(stand: Stand) -> None:
    await through(stand, upstream="http://api.openai.test")
    body = bytes(range(256)) * 1000
    answer = await stand.ask(request("/v1/files", "POST", body=body))
    assert answer.status == 200
    assert stand.upstream.requests[0].body == body


@pytest_twisted.ensureDeferred
async def test_a_407_to_a_forwarded_request_is_not_relayed(stand: Stand) -> None:
    await through(stand, "", ("user", "p@ss"), "http://api.openai.test")
    for asked in (request(), request("/v1/files", "POST", body=b"x" * 100_000)):
        answer = await stand.ask(asked)
        assert answer.status == 502
        assert json.loads(answer.body)["error"]["code"] == "egress_proxy_refused"
        assert answer.get("Proxy-Authenticate") is None
        assert (answer.get("X-Cache"), answer.get("X-Proxy")) == (b"MISS", b"goproxyai")
    assert [each["code"] for each in await stand.logged(2)] == ["egress_proxy_refused"] * 2
    assert len(stand.upstream.requests) == 0


@pytest.mark.parametrize("upstream", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_host_in_no_proxy_is_reached_directly(stand: Stand, upstream: str) -> None:
    stand.names(api_openai_test="127.0.0.1")
    tls = upstream == "https"
    stand.upstream_port = await stand.upstream.listen(
        stand.loopback(stand.authority.good() if tls else None)
    )
    proxy, port = await stand.egress()
    await stand.start(
        f"{upstream}://api.openai.test:{stand.upstream_port}",
        PROXY_URL=f"http://user:secret@127.0.0.1:{port}",
        NO_PROXY="example.com,.openai.test",
    )
    assert (await stand.ask(request())).status == 200
    assert proxy.connections_made == 0
    (seen,) = stand.upstream.requests
    assert seen.target == b"/v1/models"
    assert seen.all(b"proxy-authorization") == []


# Where things are.


@ipv6
@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_ipv6_addresses_stand_in_brackets(stand: Stand, scheme: str, proxied: bool) -> None:
    port = await stand.upstream.listen(on_ipv6(stand, scheme == "https"))
    proxy = FakeProxy(stand.reactor)
    texts = {}
    if proxied:
        texts["PROXY_URL"] = f"http://[::1]:{await proxy.listen(on_ipv6(stand))}"
    await stand.start(f"{scheme}://[::1]:{port}", **texts)
    answer = await stand.ask(request())
    await proxy.close()
    assert answer.status == 200
    authority = b"[::1]:%d" % port
    assert stand.upstream.requests[0].all(b"host") == [authority]
    expected = authority if scheme == "https" else b"http://%b/v1/models" % authority
    assert [each.target for each in proxy.requests] == ([expected] if proxied else [])


def on_ipv6(stand: Stand, tls: bool = False) -> Any:
    if tls:
        options = stand.authority.good().options()
        return SSL4ServerEndpoint(stand.reactor, 0, options, interface="::1")
    return TCP6ServerEndpoint(stand.reactor, 0, interface="::1")


@pytest.mark.parametrize("base", ["", "/", "/base", "/base/", "/a/b"])
@pytest_twisted.ensureDeferred
async def test_the_base_path_of_openai_api_url_is_kept(stand: Stand, base: str) -> None:
    stand.upstream_port = await stand.upstream.listen(stand.loopback())
    await stand.start(f"http://127.0.0.1:{stand.upstream_port}{base}")
    await stand.ask(request("/v1/models?x=1"))
    (seen,) = stand.upstream.requests
    assert seen.target == base.rstrip("/").encode() + b"/v1/models?x=1"
    assert seen.all(b"host") == [b"127.0.0.1:%d" % stand.upstream_port]


PROXY = ProxyURL("http", "192.0.2.9", 3128, "user", "p@ss")
LINE = b"Proxy-Authorization: " + BASIC + b"\r\n"


@pytest.mark.parametrize(
    ("origin", "proxy", "no_proxy", "prefix", "line", "secured", "connected_to"),
    [
        ("http://192.0.2.1", None, "", b"", b"", False, ("192.0.2.1", 80)),
        ("http://192.0.2.1:81", None, "", b"", b"", False, ("192.0.2.1", 81)),
        ("https://192.0.2.1", None, "", b"", b"", True, ("192.0.2.1", 443)),
        ("http://192.0.2.1", PROXY, "", b"http://192.0.2.1", LINE, False, ("192.0.2.9", 3128)),
        ("https://192.0.2.1", PROXY, "", b"", b"", True, ("192.0.2.9", 3128)),
        ("http://192.0.2.1", PROXY, "*", b"", b"", False, ("192.0.2.1", 80)),
        ("https://192.0.2.1", PROXY, "192.0.2.1", b"", b"", True, ("192.0.2.1", 443)),
        ("http://192.0.2.1", PROXY, "192.0.2.1:81", b"http://192.0.2.1", LINE, False,
         ("192.0.2.9", 3128)),
        ("http://192.0.2.1", ProxyURL("https", "192.0.2.9", 3128), "", b"http://192.0.2.1", b"",
         True, ("192.0.2.9", 3128)),
        ("http://[2001:db8::1]:81", None, "", b"", b"", False, ("2001:db8::1", 81)),
    ],
)  # fmt: skip
def test_a_route_leads_as_the_table_says(
    origin: str,
    proxy: ProxyURL | None,
    no_proxy: str,
    prefix: bytes,
    line: bytes,
    secured: bool,
    connected_to: tuple[str, int],
) -> None:
    reactor = MemoryReactorClock()
    route = Routes(reactor, proxy, parse_no_proxy(no_proxy), tls_to).to(origin.encode())
    assert (route.prefix, route.lines, route.secured) == (prefix, line, secured)
    assert route.host == origin.partition("://")[2].encode()
    connecting = route.endpoint.connect(Factory.forProtocol(Protocol))
    assert [each[:2] for each in reactor.tcpClients] == [connected_to]
    assert "p@ss" not in repr(route)
    assert BASIC.decode() not in repr(route)
    connecting.addErrback(lambda _: None)
    connecting.cancel()


@pytest.mark.parametrize(
    "origin", [b"ftp://a", b"http://", b"https://user@host", b"api.openai.com", b""]
)
def test_what_is_no_http_origin_has_no_route(origin: bytes) -> None:
    with pytest.raises(ValueError, match="not an http origin"):
        Routes(MemoryReactorClock(), None, (), tls_to).to(origin)


# The endpoint by itself.


@attrs.define(eq=False)
class Tunnelled:
    """An endpoint through a proxy of its own, to nowhere in particular."""

    reactor: Any
    proxy: FakeProxy
    endpoint: ConnectEndpoint

    def connect(self) -> Deferred[Any]:
        return self.endpoint.connect(Factory.forProtocol(lambda: Wire(self.reactor)))


@pytest_twisted.async_yield_fixture
async def tunnelled(stand: Stand) -> AsyncIterator[Tunnelled]:
    proxy, port = await stand.egress()
    near = TCP4ClientEndpoint(stand.reactor, "127.0.0.1", port)
    yield Tunnelled(stand.reactor, proxy, ConnectEndpoint(near, b"somewhere:1"))


@pytest_twisted.ensureDeferred
async def test_bytes_behind_the_grant_are_the_first_that_come_through(
    tunnelled: Tunnelled,
) -> None:
    gate = Pause()
    tunnelled.proxy.script("somewhere:1", [ESTABLISHED + b"left", gate, b" over", Cut()])
    wire = await tunnelled.connect()
    await wire.until(lambda: wire.came == b"left")
    gate.release()
    await wire.until_closed()
    assert wire.came == b"left over"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(407), ConnectRefused),
        (b"nonsense\r\n\r\n", ConnectMalformed),
        ([Cut()], ConnectMalformed),
        ([Reset()], ConnectMalformed),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_tunnel_that_does_not_stand_fails_the_connection_and_closes_the_socket(
    tunnelled: Tunnelled, answer: Script, error: type[Exception]
) -> None:
    tunnelled.proxy.script("somewhere:1", answer)
    with pytest.raises(error):
        await tunnelled.connect()
    await tunnelled.proxy.wait_closed()


# The agent.


@attrs.define(eq=False)
class Agency:
    """An agent, and an upstream that it may ask."""

    reactor: Any
    authority: Authority
    ticker: Ticker
    upstream: FakeUpstream
    proxy: FakeProxy
    agents: list[RelayAgent] = attrs.field(factory=list)

    def agent(
        self, proxy: ProxyURL | None = None, head: float = 5.0, connect: float = 5.0
    ) -> RelayAgent:
        routes = Routes(self.reactor, proxy, (), self._tls)
        agent = RelayAgent(self.reactor, self.ticker, routes, Timeouts(head, 5.0), connect)
        self.agents.append(agent)
        return agent

    def _tls(self, host: str) -> Any:
        return optionsForClientTLS(host, trustRoot=self.authority.trust_root())

    async def listen(self, tls: bool = False) -> bytes:
        """Gives the origin."""
        options = self.authority.good().options() if tls else None
        port = await self.upstream.listen(loopback(self.reactor, options))
        return b"http%b://127.0.0.1:%d" % (b"s" if tls else b"", port)


@pytest_twisted.async_yield_fixture
async def agency(stand: Stand, authority: Authority) -> AsyncIterator[Agency]:
    reactor = stand.reactor
    ticker = Ticker(reactor)
    ticker.start()
    one = Agency(reactor, authority, ticker, FakeUpstream(reactor), FakeProxy(reactor))
    yield one
    for agent in one.agents:
        agent.pool.close()
    await one.upstream.close()
    await one.proxy.close()
    ticker.stop()


class Body(Protocol):
    """What ``deliverBody`` told."""

    def __init__(self) -> None:
        self.came = b""
        self.over: Deferred[Failure] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.came += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over.callback(reason.value)


def names_of(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    return [name for name, _ in headers]


@pytest_twisted.ensureDeferred
async def test_header_lines_leave_in_order_behind_host(agency: Agency) -> None:
    origin = await agency.listen()
    agent = agency.agent()
    lines = [(b"b", b"1"), (b"A", b"2"), (b"b", b"3"), (b"Authorization", KEY)]
    answer = await agent.request(b"GET", origin + b"/v1/models?x=%zz#"[:-1], lines)
    await treq.content(answer)
    (seen,) = agency.upstream.requests
    assert seen.headers == [(b"Host", origin[7:]), *lines]
    assert seen.target == b"/v1/models?x=%zz"


@pytest_twisted.ensureDeferred
async def test_it_is_an_agent_like_any_other(agency: Agency) -> None:
    origin = await agency.listen(tls=True)
    agent = agency.agent()
    assert verifyObject(IAgent, agent)
    headers = Headers({b"Authorization": [KEY], b"X-Two": [b"1", b"2"]})
    data = io.BytesIO(b"x" * 300_000)
    body = FileBodyProducer(data)
    answer = await agent.request(b"POST", origin + b"/v1/files", headers, body)
    assert verifyObject(IResponse, answer)
    assert (answer.version, answer.code, answer.phrase) == ((b"HTTP", 1, 1), 200, b"OK")
    assert answer.headers.getRawHeaders(b"content-type") == [b"application/json"]
    assert (await treq.json_content(answer))["bytes"] == 300_000
    (seen,) = agency.upstream.requests
    assert seen.all(b"x-two") == [b"1", b"2"]
    assert seen.all(b"content-length") == [b"300000"]


@pytest_twisted.ensureDeferred
async def test_an_origin_alone_asks_for_its_root(agency: Agency) -> None:
    origin = await agency.listen()
    await treq.content(await agency.agent().request(b"GET", origin))
    assert agency.upstream.requests[0].target == b"/"


@pytest_twisted.ensureDeferred
async def test_treqs_verbs_and_readers_work_over_the_relays_client(agency: Agency) -> None:
    origin = await agency.listen()
    client = RelayClient(agency.agent())
    headers = Headers({b"Authorization": [KEY]})
    url = origin.decode() + "/v1/models"
    models = await client.get(url, headers=headers)
    assert (await treq.json_content(models))["object"] == "list"
    posted = await client.post(origin + b"/v1/embeddings", headers=headers, data=b'{"input":"a"}')
    assert (await treq.json_content(posted))["object"] == "list"
    pieces: list[bytes] = []
    await treq.collect(await client.request("GET", url, headers=headers), pieces.append)
    assert json.loads(b"".join(pieces))["object"] == "list"
    for verb in (client.put, client.patch, client.delete):
        answer = await verb(url, headers=headers)
        assert json.loads(await treq.text_content(answer))["error"]
    assert (await client.head(url, headers=headers)).code == 200
    assert [each.line.partition(" ")[0] for each in agency.upstream.requests] == [
        "GET", "POST", "GET", "PUT", "PATCH", "DELETE", "HEAD"
    ]  # fmt: skip
    assert agency.upstream.requests[1].body == b'{"input":"a"}'


@pytest_twisted.ensureDeferred
async def test_neither_cookies_nor_redirects_nor_codings_are_handled_on_the_way(
    agency: Agency,
) -> None:
    origin = await agency.listen()
    client = RelayClient(agency.agent())
    script = response(b"\x1f\x8bnot", 302, [
        (b"Set-Cookie", b"a=b"), (b"Location", b"/v1/other"), (b"Content-Encoding", b"gzip")
    ])  # fmt: skip
    agency.upstream.script("/v1/moved", script)
    for _ in range(2):
        answer = await client.request("GET", origin + b"/v1/moved")
        assert (answer.code, await treq.content(answer)) == (302, b"\x1f\x8bnot")
    assert [names_of(each.headers) for each in agency.upstream.requests] == [[b"Host"]] * 2


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "body", "ending"),
    [
        (HEAD + b"Content-Length: 4\r\n\r\nfull", b"full", ResponseDone),
        (HEAD + b"Content-Length: 0\r\n\r\n", b"", ResponseDone),
        (b"HTTP/1.1 204 Nothing\r\n\r\n", b"", ResponseDone),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nfull\r\n0\r\n\r\n", b"full", ResponseDone),
        ([HEAD + b"\r\nfull", Cut()], b"full", PotentialDataLoss),
        ([HEAD + b"\r\npart", Reset()], b"part", ConnectionLost),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["at_once", "late"])
@pytest_twisted.ensureDeferred
async def test_deliver_body_tells_how_a_body_ended(
    agency: Agency, answer: Script, body: bytes, ending: type[Exception], late: bool
) -> None:
    origin = await agency.listen()
    agency.upstream.script("/v1/a", answer)
    got = await agency.agent().request(b"GET", origin + b"/v1/a")
    if late:
        await agency.upstream.wait_for(lambda one: one.answered or one.lost)
    protocol = Body()
    got.deliverBody(protocol)
    reason = await protocol.over
    assert isinstance(reason, ending)
    assert protocol.came == body


@pytest_twisted.ensureDeferred
async def test_a_body_cut_short_is_told_as_a_failure(agency: Agency) -> None:
    origin = await agency.listen()
    agency.upstream.script("/v1/a", [HEAD + b"Content-Length: 9\r\n\r\npart", Cut()])
    got = await agency.agent().request(b"GET", origin + b"/v1/a")
    protocol = Body()
    got.deliverBody(protocol)
    reason = await protocol.over
    assert not isinstance(reason, ResponseDone | PotentialDataLoss)


@pytest_twisted.ensureDeferred
async def test_a_request_that_is_answered_by_nothing_fails(agency: Agency) -> None:
    origin = await agency.listen()
    agency.upstream.script("/v1/a", [Cut()])
    with pytest.raises(ConnectionBroken):
        await agency.agent().request(b"GET", origin + b"/v1/a")


@pytest_twisted.ensureDeferred
async def test_a_head_that_does_not_come_fails_in_time(agency: Agency) -> None:
    origin = await agency.listen()
    agency.upstream.script("/v1/a", [Pause()])
    with pytest.raises(UpstreamTimeout):
        await agency.agent(head=0.1).request(b"GET", origin + b"/v1/a")


# The agent's connections.


async def ask(agent: RelayAgent, url: bytes) -> bytes:
    return bytes(await treq.content(await agent.request(b"GET", url)))


@pytest_twisted.ensureDeferred
async def test_requests_one_after_the_other_share_a_connection(agency: Agency) -> None:
    origin = await agency.listen()
    agent = agency.agent()
    for _ in range(5):
        await ask(agent, origin + b"/v1/models")
    assert agency.upstream.connections_made == 1
    assert len(agent.pool) == 1


@pytest_twisted.ensureDeferred
async def test_requests_at_the_same_time_do_not_wait_for_each_other(agency: Agency) -> None:
    origin = await agency.listen()
    agent, gate = agency.agent(), Pause()
    agency.upstream.script("/v1/a", [gate, response(b"a")])
    asked = [Deferred.fromCoroutine(ask(agent, origin + b"/v1/a")) for _ in range(7)]
    await agency.upstream.wait_until(lambda: len(agency.upstream.requests) == 7)
    gate.release()
    assert await gatherResults(asked) == [b"a"] * 7
    assert agency.upstream.connections_made == 7
    await ask(agent, origin + b"/v1/a")
    assert agency.upstream.connections_made == 7


@pytest_twisted.ensureDeferred
async def test_the_pool_keeps_no_more_than_its_bound(
    agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_IDLE_CONNECTIONS", 2)
    origin = await agency.listen()
    agent, gate = agency.agent(), Pause()
    agency.upstream.script("/v1/a", [gate, response(b"a")])
    asked = [Deferred.fromCoroutine(ask(agent, origin + b"/v1/a")) for _ in range(5)]
    await agency.upstream.wait_until(lambda: len(agency.upstream.requests) == 5)
    gate.release()
    await gatherResults(asked)
    await agency.upstream.wait_until(lambda: len(agency.upstream.connections) == 2)
    await eventually(agency.reactor, lambda: len(agent.pool) == 2)


@pytest_twisted.ensureDeferred
async def test_origins_do_not_share_connections(agency: Agency) -> None:
    origins = [await agency.listen(), await agency.listen()]
    agent = agency.agent()
    for origin in origins * 2:
        await ask(agent, origin + b"/v1/models")
    assert [each.connection for each in agency.upstream.requests] == [1, 2, 1, 2]
    assert [each.all(b"host")[0] for each in agency.upstream.requests] == [
        origin[7:] for origin in origins * 2
    ]


@pytest.mark.parametrize("how", ["unasked_bytes", "idle_for_too_long"])
@pytest_twisted.ensureDeferred
async def test_a_connection_on_its_way_out_is_not_used_again_in_the_same_turn(
    agency: Agency, how: str
) -> None:
    origin = await agency.listen()
    agent = agency.agent()
    await ask(agent, origin + b"/v1/models")
    (connection,) = agent.pool._open
    if how == "unasked_bytes":
        connection.dataReceived(b"HTTP/1.1 200 OK\r\n")
    else:
        connection.tick(agency.ticker.now + 56.0)
    await ask(agent, origin + b"/v1/models")
    assert [each.connection for each in agency.upstream.requests] == [1, 2]
    assert len(agent.pool) == 1


@pytest_twisted.ensureDeferred
async def test_a_closed_pool_keeps_nothing(agency: Agency) -> None:
    origin = await agency.listen()
    agent, gate = agency.agent(), Pause()
    await ask(agent, origin + b"/v1/models")
    agent.pool.close()
    await agency.upstream.wait_closed()
    agency.upstream.script("/v1/a", [gate, response(b"a")])
    late = Deferred.fromCoroutine(ask(agent, origin + b"/v1/a"))
    await agency.upstream.wait_for(lambda one: one.paused)
    gate.release()
    assert await late == b"a"
    await agency.upstream.wait_closed()


# Cancelling.


async def cancelled(asked: Deferred[Any]) -> None:
    asked.cancel()
    with pytest.raises(CancelledError):
        await asked


def test_a_request_that_is_cancelled_while_tcp_connects_stops_connecting() -> None:
    reactor = MemoryReactorClock()
    ticker = Ticker(reactor)
    agent = RelayAgent(reactor, ticker, Routes(reactor, None, (), tls_to), Timeouts(5, 5), 5.0)
    failed: list[Failure] = []
    asked = agent.request(b"GET", b"http://192.0.2.1/v1/models")
    asked.addErrback(failed.append)
    asked.cancel()
    assert failed[0].check(CancelledError)
    assert [each.stoppedConnecting for each in reactor.connectors] == [True]
    assert reactor.getDelayedCalls() == []


def test_connecting_that_takes_too_long_is_a_timeout() -> None:
    reactor = MemoryReactorClock()
    agent = RelayAgent(
        reactor, Ticker(reactor), Routes(reactor, None, (), tls_to), Timeouts(5, 5), 5.0
    )
    failed: list[Failure] = []
    asked = agent.request(b"GET", b"http://192.0.2.1/v1/models")
    asked.addErrback(failed.append)
    reactor.advance(4.9)
    assert failed == []
    reactor.advance(0.2)
    assert failed[0].check(UpstreamTimeout)
    assert [each.stoppedConnecting for each in reactor.connectors] == [True]
    assert IPv4Address("TCP", "192.0.2.1", 80) == reactor.connectors[0].getDestination()


@pytest_twisted.ensureDeferred
async def test_a_request_that_is_cancelled_during_connect_closes_the_socket(
    agency: Agency,
) -> None:
    port = await agency.proxy.listen(loopback(agency.reactor))
    agency.proxy.script("somewhere.test:443", [Pause()])
    agent = agency.agent(ProxyURL("http", "127.0.0.1", port))
    asked = agent.request(b"GET", b"https://somewhere.test/v1/models")
    await agency.proxy.wait_for(lambda one: one.paused)
    await cancelled(asked)
    await agency.proxy.wait_for(lambda one: one.lost, patience=1.0)
    assert len(agent.pool) == 0


@pytest.mark.parametrize("proxied", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_request_that_is_cancelled_during_the_handshake_closes_the_socket(
    agency: Agency, proxied: bool
) -> None:
    agency.upstream.stop_reading()
    origin = await agency.listen()
    port = await agency.proxy.listen(loopback(agency.reactor))
    agent = agency.agent(ProxyURL("http", "127.0.0.1", port) if proxied else None)
    asked = agent.request(b"GET", origin.replace(b"http", b"https") + b"/v1/models")
    await agency.upstream.wait_until(lambda: agency.upstream.connections_made == 1)
    if proxied:
        await agency.proxy.wait_until(lambda: len(agency.proxy.tunnels) == 1)
    await eventually(agency.reactor, lambda: len(agent.pool) == 1)
    await cancelled(asked)
    agency.upstream.resume_reading()
    await agency.upstream.wait_closed(patience=1.0)
    await eventually(agency.reactor, lambda: len(agent.pool) == 0)


@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_request_that_is_cancelled_while_it_waits_closes_the_socket(
    agency: Agency, tls: bool
) -> None:
    origin = await agency.listen(tls)
    agency.upstream.script("/v1/a", [Pause()])
    agent = agency.agent()
    asked = agent.request(b"GET", origin + b"/v1/a")
    await agency.upstream.wait_for(lambda one: one.paused)
    await cancelled(asked)
    await agency.upstream.wait_for(lambda one: one.lost, patience=1.0)
    await eventually(agency.reactor, lambda: len(agent.pool) == 0)


@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_body_that_is_aborted_closes_the_socket(agency: Agency, tls: bool) -> None:
    origin = await agency.listen(tls)
    agency.upstream.script("/v1/a", [HEAD + b"Content-Length: 9\r\n\r\npart", Pause()])
    agent = agency.agent()
    answer = await agent.request(b"GET", origin + b"/v1/a")
    protocol = Body()
    answer.deliverBody(protocol)
    await agency.upstream.wait_for(lambda one: one.paused)
    protocol.transport.abortConnection()
    await agency.upstream.wait_for(lambda one: one.lost, patience=1.0)
    await eventually(agency.reactor, lambda: len(agent.pool) == 0)


@pytest_twisted.ensureDeferred
async def test_an_upload_that_is_cancelled_closes_the_socket_and_stops_its_producer(
    agency: Agency,
) -> None:
    origin = await agency.listen()
    agency.upstream.stop_reading()
    agent = agency.agent()
    data = io.BytesIO(bytes(16 * 1024 * 1024))
    asked = agent.request(b"POST", origin + b"/v1/files", None, FileBodyProducer(data))
    await eventually(agency.reactor, lambda: data.tell() > 1024 * 1024)
    await cancelled(asked)
    assert data.closed
    await eventually(agency.reactor, lambda: len(agent.pool) == 0)
    agency.upstream.resume_reading()
    await agency.upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_a_defect_while_sending_on_a_new_connection_is_answered(
    stand: Stand, failures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await stand.start()
    monkeypatch.setattr(ClientConnection, "send", lambda *_: 1 // 0)
    answer = await stand.ask(request())
    assert answer.status == 500
    assert [event["log_format"] for event in failures] == ["a defect while forwarding"]
    failures.clear()
