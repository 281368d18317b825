"""The relay agent as an ``IAgent``, and treq's client on it."""

from __future__ import annotations

import io
import json

import pytest
import pytest_twisted
import treq
from twisted.internet.error import ConnectionLost
from twisted.web.client import FileBodyProducer, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface.verify import verifyObject

from goproxyai.egress.treq_client import RelayClient
from goproxyai.http11.errors import ConnectionBroken, UpstreamTimeout
from tests.support.agents import AgentHarness, Body
from tests.support.answers import response
from tests.support.harness import KEY
from tests.support.steps import Answer as Script
from tests.support.steps import Close, Pause, Reset

pytestmark = pytest.mark.usefixtures("collect_garbage")

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest_twisted.ensureDeferred
async def test_headers_are_sent_in_order_after_host(agents: AgentHarness) -> None:
    origin = await agents.listen()
    headers = [(b"b", b"1"), (b"A", b"2"), (b"b", b"3"), (b"Authorization", KEY)]
    answer = await agents.agent().request(b"GET", origin + b"/v1/models?x=%zz", headers)
    await treq.content(answer)
    (seen,) = agents.upstream.requests
    assert seen.headers == [(b"Host", origin.removeprefix(b"http://")), *headers]
    assert seen.target == b"/v1/models?x=%zz"


@pytest_twisted.ensureDeferred
async def test_agent_provides_iagent(agents: AgentHarness) -> None:
    origin = await agents.listen(tls=True)
    agent = agents.agent()
    assert verifyObject(IAgent, agent)
    headers = Headers({b"Authorization": [KEY], b"X-Two": [b"1", b"2"]})
    body = FileBodyProducer(io.BytesIO(b"x" * 300_000))
    answer = await agent.request(b"POST", origin + b"/v1/files", headers, body)
    assert verifyObject(IResponse, answer)
    assert (answer.version, answer.code, answer.phrase) == ((b"HTTP", 1, 1), 200, b"OK")
    assert answer.headers.getRawHeaders(b"content-type") == [b"application/json"]
    assert (await treq.json_content(answer))["bytes"] == 300_000
    (seen,) = agents.upstream.requests
    assert seen.all(b"x-two") == [b"1", b"2"]
    assert seen.all(b"content-length") == [b"300000"]


@pytest_twisted.ensureDeferred
async def test_uri_without_path_requests_root(agents: AgentHarness) -> None:
    origin = await agents.listen()
    await treq.content(await agents.agent().request(b"GET", origin))
    assert agents.upstream.requests[0].target == b"/"


@pytest_twisted.ensureDeferred
async def test_treq_verbs_and_readers_work_on_relay_client(agents: AgentHarness) -> None:
    origin = await agents.listen()
    client = RelayClient(agents.agent())
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
    assert [each.line.partition(" ")[0] for each in agents.upstream.requests] == [
        "GET", "POST", "GET", "PUT", "PATCH", "DELETE", "HEAD"
    ]  # fmt: skip
    assert agents.upstream.requests[1].body == b'{"input":"a"}'


@pytest_twisted.ensureDeferred
async def test_relay_client_ignores_cookies_redirects_and_content_codings(
    agents: AgentHarness,
) -> None:
    origin = await agents.listen()
    client = RelayClient(agents.agent())
    script = response(b"\x1f\x8bnot", 302, [
        (b"Set-Cookie", b"a=b"), (b"Location", b"/v1/other"), (b"Content-Encoding", b"gzip")
    ])  # fmt: skip
    agents.upstream.script("/v1/moved", script)
    for _ in range(2):
        answer = await client.request("GET", origin + b"/v1/moved")
        assert (answer.code, await treq.content(answer)) == (302, b"\x1f\x8bnot")
    sent = [[name for name, _ in each.headers] for each in agents.upstream.requests]
    assert sent == [[b"Host"]] * 2


@pytest.mark.parametrize(
    ("answer", "data", "ending"),
    [
        (HEAD + b"Content-Length: 4\r\n\r\nfull", b"full", ResponseDone),
        (HEAD + b"Content-Length: 0\r\n\r\n", b"", ResponseDone),
        (b"HTTP/1.1 204 Nothing\r\n\r\n", b"", ResponseDone),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nfull\r\n0\r\n\r\n", b"full", ResponseDone),
        ([HEAD + b"\r\nfull", Close()], b"full", PotentialDataLoss),
        ([HEAD + b"\r\npart", Reset()], b"part", ConnectionLost),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["at_once", "late"])
@pytest_twisted.ensureDeferred
async def test_deliver_body_reports_ending(
    agents: AgentHarness, answer: Script, data: bytes, ending: type[Exception], late: bool
) -> None:
    origin = await agents.listen()
    agents.upstream.script("/v1/a", answer)
    received = await agents.agent().request(b"GET", origin + b"/v1/a")
    if late:
        await agents.upstream.wait_for(lambda one: one.answered or one.lost)
    body = Body()
    received.deliverBody(body)
    assert isinstance(await body.ended, ending)
    assert body.data == data


@pytest_twisted.ensureDeferred
async def test_truncated_body_is_a_failure(agents: AgentHarness) -> None:
    origin = await agents.listen()
    agents.upstream.script("/v1/a", [HEAD + b"Content-Length: 9\r\n\r\npart", Close()])
    received = await agents.agent().request(b"GET", origin + b"/v1/a")
    body = Body()
    received.deliverBody(body)
    assert not isinstance(await body.ended, ResponseDone | PotentialDataLoss)


@pytest_twisted.ensureDeferred
async def test_connection_closed_before_response_is_a_failure(agents: AgentHarness) -> None:
    origin = await agents.listen()
    agents.upstream.script("/v1/a", [Close()])
    with pytest.raises(ConnectionBroken):
        await agents.agent().request(b"GET", origin + b"/v1/a")


@pytest_twisted.ensureDeferred
async def test_response_head_times_out(agents: AgentHarness) -> None:
    origin = await agents.listen()
    agents.upstream.script("/v1/a", [Pause()])
    with pytest.raises(UpstreamTimeout):
        await agents.agent(head_timeout=0.1).request(b"GET", origin + b"/v1/a")
