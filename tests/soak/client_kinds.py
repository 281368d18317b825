"""The kinds of clients: what each does in one round.

A round sends some requests and waits for their ends. Each call knows its correct answer; only a
client that writes a resource knows the version that it must read afterwards.
"""

from __future__ import annotations

import json
from typing import Any

from tests.soak.answers import Info
from tests.soak.connection import SWITCHED, Call, LoadConnection, TunnelConnection, connect
from tests.soak.load import CREDENTIALS, MAX_CALL_SECONDS, LoadClient
from tests.support.answers import chunk

HANDSHAKE_FIELDS = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


MAX_END_SECONDS = 10.0
"""In which the daemon must end a connection after ``close_notify``; the harness may be busy."""


def _body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


async def repeating(client: LoadClient) -> None:
    """Few different requests, with one of two credentials: cache hits."""
    rng = client.rng
    credential = rng.choice(CREDENTIALS)
    if rng.random() < 0.7:
        size = rng.choice((100, 100, 2_000, 100_000))
        await client.request("GET", f"/v1/models/m{rng.randrange(8)}?size={size}", credential)
    else:
        body = _body(model="e", input=f"text {rng.randrange(8)}", size=3_000)
        await client.request("POST", "/v1/embeddings", credential, body)


async def unique(client: LoadClient) -> None:
    """A completion that no client has requested before: a cache miss."""
    text = f"{client.number} {client.rng.random()}"
    body = _body(model="m", messages=text, size=client.rng.choice((500, 5_000, 70_000)))
    await client.request("POST", "/v1/chat/completions", client.rng.choice(CREDENTIALS), body)


async def streaming(client: LoadClient) -> None:
    """A stream that is read to its end; some are requested by several clients."""
    rng = client.rng
    body = _body(
        model="m", stream=True, temperature=0, messages=rng.randrange(1 << rng.choice((2, 30))),
        size=rng.choice((20, 500)), events=rng.randrange(3, 30), interval=rng.choice((0.002, 0.02)),
    )  # fmt: skip
    await client.request("POST", "/v1/chat/completions", rng.choice(CREDENTIALS), body)


async def uploading(client: LoadClient) -> None:
    """An upload in several writes, with its length or chunked."""
    rng = client.rng
    connection = await client.connected()
    if connection is None:
        return
    body = rng.randbytes(rng.choice((1_000, 20_000, 300_000)))
    chunked = rng.random() < 0.5
    call, head, _ = client.begin(
        "POST", "/v1/files", CREDENTIALS[0], body, json=False, chunked=chunked
    )
    connection.send(call, head)
    size = len(body) // rng.randrange(1, 6) + 1
    for at in range(0, len(body), size):
        piece = body[at : at + size]
        connection.send_more(chunk(piece) if chunked else piece)
        await client.pause(0.005)
    if chunked:
        connection.send_more(chunk(b""))
    await client.finish(call)


async def simultaneous(client: LoadClient) -> None:
    """Identical requests on several connections at the same time."""
    rng = client.rng
    count, size = rng.randrange(2, 7), rng.choice((300, 30_000, 30_000, 5_000_000))
    if size == 5_000_000 and rng.random() < 0.8:
        size = 300_000
    connections = [await connect(client.load.reactor, client.load.door) for _ in range(count)]
    target = f"/v1/models/f{rng.getrandbits(40):x}?size={size}"
    calls: list[Call] = []
    for connection in connections:
        if connection is not None:
            call, head, _ = client.begin("GET", target)
            connection.send(call, head)
            calls.append(call)
            if rng.random() < 0.3:
                await client.pause(0.01)
    for connection in connections[:1]:
        if connection is not None and rng.random() < 0.3:
            connection.close()  # the leader leaves, the others stay
    for call in calls:
        await client.finish(call)
    for connection in connections:
        if connection is not None:
            connection.close(orderly=True)


async def polling(client: LoadClient) -> None:
    """Poll a batch until it is completed; no answer may repeat an earlier progress."""
    rng = client.rng
    target = f"/v1/batches/b{rng.getrandbits(40):x}?polls={rng.randrange(2, 6)}"
    min_version = 1
    for _ in range(12):
        info = _info(await client.request("GET", target, min_version=min_version))
        if info is not None and info.status == 200:
            if info.state == "completed":
                return
            min_version = info.version + 1
        await client.pause(0.02)


async def writing(client: LoadClient) -> None:
    """Write a resource, then read it; the answer must not be older than the write."""
    rng, versions = client.rng, client.state
    root = f"/v1/files/{client.load.where}{client.number}"
    credential = CREDENTIALS[client.number % 2]
    target = rng.choice((root, *(f"{root}/r{number}" for number in range(3))))
    write = rng.random() < 0.4
    if rng.random() < 0.2:
        await client.connected(fresh=True)
    if not write:
        known = versions.get(target, 0)
        info = _info(await client.request("GET", target, credential, min_version=known))
        if info is not None:
            versions[target] = max(versions.get(target, 0), info.version)
        return
    if target == root:
        target += f"/r{rng.randrange(3)}"
    method = rng.choice(("PUT", "PUT", "DELETE"))
    body = b"" if method == "DELETE" else rng.randbytes(rng.choice((10, 5_000)))
    known = versions.get(target, 0)
    info = _info(
        await client.request(method, target, credential, body, json=False, min_version=known)
    )
    if info is not None and info.status == 200:
        versions[target] = max(versions.get(target, 0), info.version)
        versions[root] = client.load.versions.get((credential, root), 0)
        read = _info(await client.request("GET", target, credential, min_version=info.version))
        if read is not None:
            versions[target] = max(versions[target], read.version)


async def pipelining(client: LoadClient) -> None:
    """Several requests in one write, which must be answered in order."""
    rng = client.rng
    connection = await client.connected()
    if connection is None:
        return
    calls, data = [], b""
    for _ in range(rng.randrange(2, 7)):
        if rng.random() < 0.7:
            target = f"/v1/models/m{rng.randrange(8)}?size={rng.choice((100, 30_000))}"
            call, head, body = client.begin("GET", target, rng.choice(CREDENTIALS))
        else:
            unique_body = _body(model="m", messages=rng.random(), size=900)
            call, head, body = client.begin("POST", "/v1/completions", body=unique_body)
        calls.append(call)
        data += head + body
    first, *rest = calls
    connection.send(first, data)
    for call in rest:
        connection.send(call, b"")
    for call in calls:
        await client.finish(call)


async def slow_reading(client: LoadClient) -> None:
    """A large answer, read with pauses."""
    rng = client.rng
    connection = await client.connected(fresh=True)
    if connection is None:
        return
    number = rng.choice((rng.randrange(2), rng.getrandbits(40)))
    call, head, _ = client.begin("GET", f"/v1/models/s{number:x}?size=2000000")
    connection.send(call, head)
    for _ in range(rng.randrange(3, 12)):
        connection.set_reading(False)
        await client.pause(0.1)
        connection.set_reading(True)
        await client.pause(0.002)
    await client.finish(call)


async def leaving(client: LoadClient) -> None:
    """Close the connection in one of the phases of a request."""
    rng = client.rng
    tls = client.draws_tls()
    connection = await client.connected(fresh=True, tls=tls)
    if connection is None:
        return
    phase = rng.randrange(6)
    orderly = rng.random() < 0.5
    if phase == 0:  # before the first byte
        connection.close(orderly)
        return
    if rng.random() < 0.5:
        body = _body(model="m", stream=True, messages=rng.random(), size=200, events=50,
                     interval=0.01)  # fmt: skip
        call, head, body = client.begin("POST", "/v1/chat/completions", body=body)
    else:
        body = rng.randbytes(30_000)
        call, head, body = client.begin("POST", "/v1/files", body=body, json=False)
    match phase:
        case 1:  # within the head
            connection.send(call, head[: rng.randrange(1, len(head))])
        case 2:  # within the body
            connection.send(call, head + body[: rng.randrange(len(body))])
            while not connection.flushed:
                await client.pause(0.02)
            await client.pause(0.2)
            # A reset discards what a busy daemon has not read, and so may a restart.
            call.logged = orderly and not call.end
        case 3:  # immediately after the request
            connection.send(call, head + body)
        case 4:  # before or within the answer
            connection.send(call, head + body)
            await client.pause(rng.choice((0.01, 0.1, 0.3)))
        case 5:  # without reading the answer
            connection.send(call, head + body)
            connection.set_reading(False)
            await client.pause(0.3)
    if not call.end:
        connection.close(orderly)
    if phase == 5 and orderly and tls:
        await _assert_ended(client, connection)
    await client.finish(call)


async def _assert_ended(client: LoadClient, connection: LoadConnection) -> None:
    """Report a connection that is open though its client has sent ``close_notify``."""
    deadline = client.load.reactor.seconds() + MAX_END_SECONDS
    while not connection.ended_by_daemon:
        if client.load.reactor.seconds() > deadline:
            client.load.audit.report("close_notify of a client that does not read ends nothing")
            break
        await client.pause(0.05)
    connection.close()


MALFORMED = (
    (b"GET /v1/bomb/%d HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    (b"GET /v1/bomb/%d HTTP/1.1\r\nHost: a\r\n" + b"X-Many: a\r\n" * 250 + b"\r\n", 431),
    (b"GET /v1/bomb/%d/" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET /v1/bomb/%d HTTP/1.1\r\n\r\n", 400),
    (b"GET /v1/bomb/%d HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET /v1/bomb/%d HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n", 400),
    (b"POST /v1/bomb/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
     b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST /v1/bomb/%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
    (b"POST /v1/bomb/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    (b"POST /v1/bomb/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n", 413),
    (b"GET /v1/bomb/%d/../../stats HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 /v1/bomb/%d", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n%d", 400),
    (b"BREW /v1/bomb/%d HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"TRACE /v1/bomb/%d HTTP/1.1\r\nHost: a\r\n\r\n", 405),
)  # fmt: skip
"""Requests that the daemon must refuse, and the status of the refusal."""


async def malformed(client: LoadClient) -> None:
    """One of :data:`MALFORMED`."""
    connection = await client.connected(fresh=True)
    if connection is None:
        return
    data, status = client.rng.choice(MALFORMED)
    audit = client.load.audit
    number = next(client.load.numbers)
    call = Call(number, "malformed", "-", "-", "", client.load.reactor.seconds())
    audit.begin(call)
    connection.send(call, data % number)
    await client.finish(call)
    if audit.is_goproxyai and call.end == "answered" and call.status not in (status, 503):
        audit.report(f"{data[:50]!r} was answered with {call.status}, not {status}")


async def tunnelling(client: LoadClient) -> None:
    """A WebSocket handshake, and bytes that must come back unchanged after it."""
    rng = client.rng
    connection = await client.connected(True, TunnelConnection, client.draws_tls())
    if not isinstance(connection, TunnelConnection):
        return
    target = f"/v1/realtime?size={rng.choice((200, 30_000))}"
    if rng.random() < 0.3:
        await _tunnel_that_upstream_finishes(client, connection, target)
        return
    call, head, _ = client.begin("GET", target, rng.choice(CREDENTIALS), more=HANDSHAKE_FIELDS)
    connection.send(call, head)
    sent = b""
    while await _came_back(client, call, connection, sent) and rng.random() < 0.8:
        frame = rng.randbytes(rng.choice((10, 1_000, 200_000)))
        sent += frame
        connection.send_more(frame)
    if call.end:  # not answered with 101, or cut
        await client.finish(call)
        return
    if rng.random() < 0.7:
        connection.finish_tunnel()
    else:
        connection.close(orderly=rng.random() < 0.5)
    await client.finish(call)


async def _tunnel_that_upstream_finishes(
    client: LoadClient, connection: TunnelConnection, target: str
) -> None:
    """A tunnel in which upstream sends a FIN after some bytes, and the client some bytes later."""
    rng = client.rng
    frame = rng.randbytes(rng.choice((10, 1_000, 200_000)))
    call, head, _ = client.begin("GET", f"{target}&finish={len(frame)}", more=HANDSHAKE_FIELDS)
    connection.expects_end = True
    connection.send(call, head)
    if await _came_back(client, call, connection, b""):
        connection.send_more(frame)
    deadline = client.load.reactor.seconds() + MAX_CALL_SECONDS
    while not (call.end or connection.input_ended):
        if client.load.reactor.seconds() > deadline:
            client.load.audit.hung(call)
            connection.close()
        await client.pause(0.005)
    if call.status == SWITCHED and not frame.startswith(connection.tunnelled()):
        client.load.audit.report(f"other bytes in a tunnel that upstream finished: {call}")
    client.load.audit.finished_by_upstream += connection.input_ended or call.end == "answered"
    if connection.input_ended:
        connection.send_more(b"late")
        connection.finish_tunnel()
    await client.finish(call)


async def _came_back(
    client: LoadClient, call: Call, connection: LoadConnection, sent: bytes
) -> bool:
    """Wait until all of *sent* is back, and compare it; whether the tunnel is open."""
    deadline = client.load.reactor.seconds() + MAX_CALL_SECONDS
    while not call.end:
        if connection.is_tunnel and len(received := connection.tunnelled()) >= len(sent):
            if received != sent:
                client.load.audit.report(f"other bytes in a tunnel: {call}")
            return True
        if client.load.reactor.seconds() > deadline:
            client.load.audit.hung(call)
            connection.close()
            return False
        await client.pause(0.005)
    return False


def _info(call: Call | None) -> Info | None:
    """What the upstream's answer says, if the call got a correct one."""
    return None if call is None else call.info


KINDS = (
    (repeating, 6, 0.12, ""),
    (unique, 4, 0.15, ""),
    (streaming, 5, 0.15, ""),
    (uploading, 3, 0.2, ""),
    (simultaneous, 2, 0.3, ""),
    (polling, 2, 0.1, ""),
    (writing, 4, 0.08, ""),
    (pipelining, 2, 0.2, ""),
    (slow_reading, 3, 0.3, "slow readers"),
    (leaving, 4, 0.1, "leaving clients"),
    (tunnelling, 3, 0.1, ""),
    (malformed, 2, 0.1, "malformed requests"),
)
"""The clients of a load: the round, their number, the seconds between two rounds, and the fault
during which alone they are active, if any."""
