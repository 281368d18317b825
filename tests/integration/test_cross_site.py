"""What a stranger's page in an operator's browser is told; the rest of docs/security.md is shown
where it belongs.
"""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.support.harness import Answer, ProxyHarness, request

PAGE = [("Origin", "https://evil.example"), ("Referer", "https://evil.example/")]
ASKING_FIRST = [*PAGE, ("Access-Control-Request-Method", "DELETE")]


def stored(harness: ProxyHarness) -> int:
    """How many answers the daemon's cache holds."""
    assert harness.daemon is not None
    assert harness.daemon.system.relay.store is not None
    return len(harness.daemon.system.relay.store)


def leave_given(answer: Answer) -> list[bytes]:
    """The fields by which an answer would let other sites in."""
    return [name for name, _ in answer.headers if name.lower().startswith(b"access-control-")]


@pytest_twisted.ensureDeferred
async def test_a_page_of_another_site_is_given_no_leave_to_clear_the_cache(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    await harness.ask(request())
    for target in ("/cache", "/cache?path=/v1/models"):
        answer = await harness.ask(request(target, "OPTIONS", ASKING_FIRST), b"OPTIONS")
        assert answer.status == 405
        assert leave_given(answer) == []
    assert stored(harness) == 1


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b"_method=DELETE")])
@pytest_twisted.ensureDeferred
async def test_no_form_clears_the_cache(harness: ProxyHarness, method: str, body: bytes) -> None:
    await harness.start()
    await harness.ask(request())
    form = [*PAGE, ("X-HTTP-Method-Override", "DELETE")]
    if body:
        form.append(("Content-Type", "application/x-www-form-urlencoded"))
    answer = await harness.ask(
        request("/cache?_method=DELETE", method, form, body), method.encode()
    )
    assert answer.status in (405, 413)  # no system endpoint takes a body
    assert stored(harness) == 1


@pytest.mark.parametrize("target", ["/stats", "/health", "/health/ready", "/cache", "/nowhere"])
@pytest_twisted.ensureDeferred
async def test_a_page_of_another_site_is_given_no_leave_to_read(
    harness: ProxyHarness, target: str
) -> None:
    await harness.start()
    assert leave_given(await harness.ask(request(target, headers=PAGE))) == []


@pytest.mark.parametrize(("method", "target"), [("GET", "/stats"), ("DELETE", "/cache")])
@pytest_twisted.ensureDeferred
async def test_a_rebound_page_gets_nothing_where_operators_show_a_token(
    harness: ProxyHarness, method: str, target: str
) -> None:
    await harness.start(ADMIN_ALLOW="", ADMIN_TOKEN="a-token-of-the-operators")
    await harness.ask(request())
    rebound = f"{method} {target} HTTP/1.1\r\nHost: evil.example:8080\r\n\r\n".encode()
    answer = await harness.ask(rebound, method.encode())
    assert answer.status == 403
    assert stored(harness) == 1
