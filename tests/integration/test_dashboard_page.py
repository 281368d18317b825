"""The files of the dashboard page."""

from __future__ import annotations

import pytest
import pytest_twisted

from goproxyai.admin.assets import PAGE, PAGES, SECURITY_HEADERS, assets, refused_page
from tests.support.harness import ProxyHarness, request


@pytest_twisted.ensureDeferred
async def test_page_and_files_are_served_with_strict_policy(harness: ProxyHarness) -> None:
    await harness.start()
    page = await harness.ask(request("/dashboard"))
    assert page.status == 200
    assert page.get("Content-Type") == b"text/html; charset=utf-8"
    for name in assets():
        if name not in PAGES:
            answer = await harness.ask(request(f"/dashboard/{name}"))
            assert (answer.status, answer.body) == (200, assets()[name][1])
            for field, value in SECURITY_HEADERS:
                assert answer.get(field.decode()) == value
    policy = page.get("Content-Security-Policy") or b""
    assert b"unsafe" not in policy
    assert policy.startswith(b"default-src 'none'")


@pytest.mark.parametrize(
    "name", ["index.html", "refused.html", "nothing.js", "app.py", "app.js/", "events/x"]
)
@pytest_twisted.ensureDeferred
async def test_unknown_file_is_not_found(harness: ProxyHarness, name: str) -> None:
    await harness.start()
    assert (await harness.ask(request(f"/dashboard/{name}"))).status == 404


@pytest_twisted.ensureDeferred
async def test_post_to_page_is_not_allowed(harness: ProxyHarness) -> None:
    await harness.start()
    assert (await harness.ask(request("/dashboard", "POST"))).status == 405


@pytest.mark.parametrize(
    ("token", "accept", "content_type"),
    [
        ("open-sesame", "text/html,*/*", b"text/html; charset=utf-8"),
        ("open-sesame", "*/*", b"application/json"),
        ("", "text/html", b"text/html; charset=utf-8"),
        ("", "*/*", b"application/json"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_unauthorized_browser_gets_page_and_other_clients_json(
    harness: ProxyHarness, token: str, accept: str, content_type: bytes
) -> None:
    await harness.start(ADMIN_ALLOW="", ADMIN_TOKEN=token)
    answer = await harness.ask(request("/dashboard", headers=[("Accept", accept)]))
    assert (answer.status, answer.get("Content-Type")) == (403, content_type)
    assert answer.get("Vary") == b"Accept"
    assert (b"ADMIN_ALLOW" in answer.body) is not bool(token and accept != "*/*")
    for field, value in SECURITY_HEADERS if accept != "*/*" else ():
        assert answer.get(field.decode()) == value
    assert (await harness.logged())[0]["code"] == "admin_forbidden"
    with_token = request("/dashboard", key=b"Bearer open-sesame")
    assert (await harness.ask(with_token)).status == (200 if token else 403)


def test_refused_page_shows_reason_and_address_as_text() -> None:
    page = refused_page('<script>"no"</script>', "<b>")
    assert b"&lt;script&gt;" in page
    assert b"<script" not in page
    assert b"<b>" not in page
    assert b"{" not in page


def test_page_has_no_external_or_inline_code() -> None:
    page = assets()[PAGE][1]
    assert b"<script>" not in page
    assert b" style=" not in page
    for name, (_, content) in assets().items():
        text = content.replace(b"http://www.w3.org/", b"")  # XML namespaces
        assert b"http://" not in text, name
        assert b"https://" not in text, name
        assert b"innerHTML" not in text, name
