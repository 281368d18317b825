"""Requests that are full of secrets, and a check that none is in a text."""

from __future__ import annotations

import json

import attrs

from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, request
from tests.support.raw_client import LOOPED_VIA
from tests.support.steps import Close, Pause, Reset

SECRETS = {
    "key": "sk-good-Zq8mEyEsOnLy",
    "unmarked key": "Zq8keywithoutprefix",
    "query": "Zq8queryvalue",
    "body": "Zq8bodytext",
    "answer": "Zq8answertext",
    "cookie": "Zq8cookie",
    "proxy user": "Zq8proxyuser",
    "proxy password": "Zq8proxypassword",
    "token": "Zq8admintoken",
    "wrong token": "Zq8wrongtoken",
}
BASIC = "WnE4cHJveHl1c2VyOlpxOHByb3h5cGFzc3dvcmQ="
"""The egress proxy's credentials in base64."""

PROXY_USERINFO = f"{SECRETS['proxy user']}:{SECRETS['proxy password']}"
CHUNKED = (b"Transfer-Encoding", b"chunked")


def secretive(target: str, method: str = "POST", *headers: tuple[str, str]) -> bytes:
    """Return a request with secrets in its query, header and body."""
    query = f"?key={SECRETS['query']}"
    cookie = ("Cookie", f"a={SECRETS['cookie']}")
    body = json.dumps({"prompt": SECRETS["body"]}).encode()
    key = f"Bearer {SECRETS['key']}".encode()
    keys = [(name, SECRETS["unmarked key"]) for name in ("api-key", "x-api-key", "x-goog-api-key")]
    return request(target + query, method, [cookie, *keys, *headers], body, key)


def assert_no_secret(*values: object) -> None:
    for value in values:
        for name, secret in {**SECRETS, "basic": BASIC}.items():
            assert secret not in str(value), f"{name} in {value!s:.500}"


@attrs.frozen
class Case:
    """A request, and the status of its answer."""

    status: int
    data: bytes


SETTINGS = {"ADMIN_TOKEN": SECRETS["token"], "REQUEST_TIMEOUT": "2s"}
"""Of a daemon that answers :data:`CASES`. One of them times out; a busy machine needs time for the
others, too."""

CASES = [
    Case(200, secretive("/v1/fine")),
    Case(404, secretive("/v1/nothing")),
    Case(404, secretive(f"/v1/nothing;api-key={SECRETS['unmarked key']}")),
    Case(404, secretive(f"/v1/nothing%3Fapi-key%3D{SECRETS['unmarked key']}")),
    Case(404, secretive(f"/v1/nothing?api-key%3D{SECRETS['unmarked key']}&a")),
    Case(404, secretive(f"/nowhere;%61pi-key={SECRETS['unmarked key']}")),
    Case(404, secretive(f"/v1/nothing/{SECRETS['key']}/x")),
    Case(404, secretive(f"/v1/nothing/{SECRETS['key'].replace('-', '%2D')}/x")),
    Case(404, secretive(f"/v1/nothing/%2573%6b{SECRETS['key'][2:]}/x")),
    Case(200, secretive("/v1/echo", "POST", ("X-Request-Id", SECRETS["key"]))),
    Case(502, secretive("/v1/broken")),
    Case(502, secretive("/v1/garbage")),
    Case(504, secretive("/v1/slow")),
    Case(200, secretive("/v1/cut")),
    Case(404, secretive("/nowhere")),
    Case(405, secretive("/health")),
    Case(405, secretive("/v1/x", "TRACE")),
    Case(400, secretive("/v1/../x")),
    Case(400, secretive("/v1/x", "GET", ("Host", SECRETS["key"]))),
    Case(400, secretive("/v1/x", "GET", ("Transfer-Encoding", SECRETS["unmarked key"]))),
    Case(400, secretive("/v1/x", "GET", ("Expect", SECRETS["unmarked key"]))),
    Case(400, secretive("/v1/x").replace(b"Cookie:", b"Cookie :")),
    Case(431, secretive("/v1/x", "GET", ("X-Long", SECRETS["unmarked key"] * 4500))),
    Case(504, secretive("/v1/x", "GET", ("Cache-Control", "only-if-cached"))),
    Case(508, secretive("/v1/x", "GET", ("Via", f"{LOOPED_VIA} ({SECRETS['unmarked key']})"))),
    Case(403, request("/stats", "GET", [("X-Forwarded-For", "203.0.113.9")],
                      key=f"Bearer {SECRETS['wrong token']}".encode())),
]  # fmt: skip


def script_upstream(harness: ProxyHarness) -> None:
    """Let the upstream answer the paths of :data:`CASES`, with secrets."""
    answer = SECRETS["answer"].encode()
    echoed = (b"X-Request-Id", SECRETS["key"].encode())  # to the client that has sent it
    harness.upstream.script("/v1/echo", response(answer, 200, [echoed]))
    harness.upstream.script("/v1/fine", response(answer, 200, [(b"Set-Cookie", answer)]))
    harness.upstream.script("/v1/broken", [Reset()])
    harness.upstream.script("/v1/garbage", b"HTTP/1.1 2x0 " + answer + b"\r\n\r\n")
    harness.upstream.script("/v1/slow", [Pause()])
    harness.upstream.script("/v1/cut", [head(200, [CHUNKED]), chunk(answer), Close()])
