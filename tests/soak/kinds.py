"""The kinds of clients: one round of each.

A round sends some requests and sees to their end. What is right is known by each call itself; what
must be the newest version, only the client knows that wrote it.
"""

from __future__ import annotations

import json
from typing import Any

from tests.soak.crowd import CREDENTIALS, Client
from tests.soak.truth import Told
from tests.soak.wire import Call, dial
from tests.support.answers import chunk


def _body(**named: Any) -> bytes:
    return json.dumps(named).encode()


async def repeating(client: Client) -> None:
    """The same few requests, with either of two credentials: hits."""
    rng = client.rng
    credential = rng.choice(CREDENTIALS)
    if rng.random() < 0.7:
        size = rng.choice((100, 100, 2_000, 100_000))
        await client.ask("GET", f"/v1/models/m{rng.randrange(8)}?size={size}", credential)
    else:
        body = _body(model="e", input=f"text {rng.randrange(8)}", size=3_000)
        await client.ask("POST", "/v1/embeddings", credential, body)


async def missing(client: Client) -> None:
    """A completion that nobody asked for before."""
    text = f"{client.number} {client.rng.random()}"
    body = _body(model="m", messages=text, size=client.rng.choice((500, 5_000, 70_000)))
    await client.ask("POST", "/v1/chat/completions", client.rng.choice(CREDENTIALS), body)


async def streaming(client: Client) -> None:
    """A stream, read whole; some of them ask what others ask, too."""
    rng = client.rng
    body = _body(
        model="m", stream=True, temperature=0, messages=rng.randrange(1 << rng.choice((2, 30))),
        size=rng.choice((20, 500)), events=rng.randrange(3, 30), interval=rng.choice((0.002, 0.02)),
    )  # fmt: skip
    await client.ask("POST", "/v1/chat/completions", rng.choice(CREDENTIALS), body)


async def uploading(client: Client) -> None:
    """A file, in pieces, with its length or in chunks."""
    rng = client.rng
    line = await client.connected()
    if line is None:
        return
    body = rng.randbytes(rng.choice((1_000, 20_000, 300_000)))
    chunked = rng.random() < 0.5
    call, head, _ = client.request(
        "POST", "/v1/files", CREDENTIALS[0], body, json=False, chunked=chunked
    )
    line.ask(call, head)
    size = len(body) // rng.randrange(1, 6) + 1
    for at in range(0, len(body), size):
        piece = body[at : at + size]
        line.more(chunk(piece) if chunked else piece)
        await client.pause(0.005)
    if chunked:
        line.more(chunk(b""))
    await client.end(call)


async def flying(client: Client) -> None:
    """Several at once who want the same."""
    rng = client.rng
    count, size = rng.randrange(2, 7), rng.choice((300, 30_000, 30_000, 5_000_000))
    if size == 5_000_000 and rng.random() < 0.8:
        size = 300_000
    lines = [await dial(client.crowd.reactor, client.crowd.port) for _ in range(count)]
    target = f"/v1/models/f{rng.getrandbits(40):x}?size={size}"
    calls: list[Call] = []
    for line in lines:
        if line is not None:
            call, head, _ = client.request("GET", target)
            line.ask(call, head)
            calls.append(call)
            if rng.random() < 0.3:
                await client.pause(0.01)
    for line in lines[:1]:
        if line is not None and rng.random() < 0.3:
            line.leave()  # who led goes, the others stay
    for call in calls:
        await client.end(call)
    for line in lines:
        if line is not None:
            line.leave(orderly=True)


async def polling(client: Client) -> None:
    """Watch a batch until it is done: what is under way must never be told twice the same."""
    rng = client.rng
    target = f"/v1/batches/b{rng.getrandbits(40):x}?polls={rng.randrange(2, 6)}"
    least = 1
    for _ in range(12):
        call = await client.ask("GET", target, least=least)
        told = _told(call)
        if told is not None and told.code == 200:
            if told.state == "completed":
                return
            least = told.version + 1
        await client.pause(0.02)


async def writing(client: Client) -> None:
    """Write, then read: an answer from before one's own write is wrong."""
    rng, state = client.rng, client.state
    root = f"/v1/files/{client.crowd.where}{client.number}"
    credential = CREDENTIALS[client.number % 2]
    target = rng.choice((root, *(f"{root}/r{number}" for number in range(3))))
    write = rng.random() < 0.4
    if rng.random() < 0.2:
        await client.connected(fresh=True)
    if not write:
        call = await client.ask("GET", target, credential, least=state.get(target, 0))
        told = _told(call)
        if told is not None:
            state[target] = max(state.get(target, 0), told.version)
        return
    if target == root:
        target += f"/r{rng.randrange(3)}"
    method = rng.choice(("PUT", "PUT", "DELETE"))
    body = b"" if method == "DELETE" else rng.randbytes(rng.choice((10, 5_000)))
    call = await client.ask(
        method, target, credential, body, json=False, least=state.get(target, 0)
    )
    told = _told(call)
    if told is not None and told.code == 200:
        state[target] = max(state.get(target, 0), told.version)
        state[root] = client.crowd.versions.get((credential, root), 0)
        after = await client.ask("GET", target, credential, least=told.version)
        seen = _told(after)
        if seen is not None:
            state[target] = max(state[target], seen.version)


async def pipelining(client: Client) -> None:
    """Several requests in one write, answered in order."""
    rng = client.rng
    line = await client.connected()
    if line is None:
        return
    calls, data = [], b""
    for _ in range(rng.randrange(2, 7)):
        if rng.random() < 0.7:
            target = f"/v1/models/m{rng.randrange(8)}?size={rng.choice((100, 30_000))}"
            call, head, body = client.request("GET", target, rng.choice(CREDENTIALS))
        else:
            sent = _body(model="m", messages=rng.random(), size=900)
            call, head, body = client.request("POST", "/v1/completions", body=sent)
        calls.append(call)
        data += head + body
    first, *rest = calls
    line.ask(first, data)
    for call in rest:
        line.ask(call, b"")
    for call in calls:
        await client.end(call)


async def slow(client: Client) -> None:
    """A large answer, taken in sips."""
    rng = client.rng
    line = await client.connected(fresh=True)
    if line is None:
        return
    number = rng.choice((rng.randrange(2), rng.getrandbits(40)))
    call, head, _ = client.request("GET", f"/v1/models/s{number:x}?size=2000000")
    line.ask(call, head)
    for _ in range(rng.randrange(3, 12)):
        line.read(False)
        await client.pause(0.1)
        line.read(True)
        await client.pause(0.002)
    await client.end(call)


async def vanishing(client: Client) -> None:
    """Go away, in each phase of a request."""
    rng = client.rng
    line = await client.connected(fresh=True)
    if line is None:
        return
    phase = rng.randrange(6)
    orderly = rng.random() < 0.5
    if phase == 0:  # before a byte
        line.leave(orderly)
        return
    if rng.random() < 0.5:
        body = _body(model="m", stream=True, messages=rng.random(), size=200, events=50,
                     interval=0.01)  # fmt: skip
        call, head, body = client.request("POST", "/v1/chat/completions", body=body)
    else:
        body = rng.randbytes(30_000)
        call, head, body = client.request("POST", "/v1/files", body=body, json=False)
    match phase:
        case 1:  # in the head
            line.ask(call, head[: rng.randrange(1, len(head))])
        case 2:  # in the body
            line.ask(call, head + body[: rng.randrange(len(body))])
            while not line.sent:
                await client.pause(0.02)
            await client.pause(0.2)
            call.sure = True
        case 3:  # at once
            line.ask(call, head + body)
        case 4:  # while the answer is awaited, or comes
            line.ask(call, head + body)
            await client.pause(rng.choice((0.01, 0.1, 0.3)))
        case 5:  # without reading it
            line.ask(call, head + body)
            line.read(False)
            await client.pause(0.3)
    if not call.end:
        line.leave(orderly)
    await client.end(call)


BOMBS = (
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
"""What is refused at the door, and how."""


async def bombing(client: Client) -> None:
    """Something that no server should take."""
    line = await client.connected(fresh=True)
    if line is None:
        return
    data, status = client.rng.choice(BOMBS)
    reactor = client.crowd.reactor
    number = next(client.crowd.numbers)
    call = Call(number, "bombing", "-", "-", "", reactor.seconds())
    client.crowd.accounts.begun(call)
    line.ask(call, data % number)
    await client.end(call)
    ours = client.crowd.accounts.ours
    if ours and call.end == "answered" and call.status not in (status, 503):
        client.crowd.accounts.complain(f"{data[:50]!r} was answered with {call.status}")


def _told(call: Call | None) -> Told | None:
    """What a right answer of upstream's says, if one came."""
    return None if call is None else call.told


KINDS = (
    (repeating, 6, 0.12, ""),
    (missing, 4, 0.15, ""),
    (streaming, 5, 0.15, ""),
    (uploading, 3, 0.2, ""),
    (flying, 2, 0.3, ""),
    (polling, 2, 0.1, ""),
    (writing, 4, 0.08, ""),
    (pipelining, 2, 0.2, ""),
    (slow, 3, 0.3, "slow readers"),
    (vanishing, 4, 0.1, "vanishing clients"),
    (bombing, 2, 0.1, "header bombs"),
)
"""Who makes up a crowd: a round, how many, the seconds between two rounds, and what lets them
loose."""
