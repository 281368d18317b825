"""References of the upstream, as clients of the proxy follow them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.messages.locations import local_reference

ORIGIN = b"https://api.openai.com"


@pytest.mark.parametrize(
    ("reference", "local"),
    [
        (b"https://api.openai.com/v1/x", b"/v1/x"),
        (b"HTTPS://API.OpenAI.com/v1/x?a=b#c", b"/v1/x?a=b#c"),
        (b"https://api.openai.com:443/v1/x", b"/v1/x"),
        (b"https://api.openai.com:/v1/x", b"/v1/x"),
        (b"https://api.openai.com./v1/x", b"/v1/x"),
        (b"//api.openai.com/v1/x", b"/v1/x"),
        (b"https://api.openai.com", b"/"),
        (b"https://api.openai.com?a=b", b"/?a=b"),
    ],
)
def test_reference_to_the_upstream_becomes_a_path(reference: bytes, local: bytes) -> None:
    assert local_reference(reference, ORIGIN, b"") == local


@pytest.mark.parametrize(
    "reference",
    [
        b"/v1/x", b"x", b"../x", b"?a=b", b"#c", b"", b"https:/v1/x", b"mailto:a@b",
        b"http://api.openai.com/v1/x", b"https://api.openai.com:8443/v1/x",
        b"https://files.openai.com/x", b"//files.openai.com/x",
        b"https://api.openai.com.evil.test/x", b"https://user@api.openai.com/x",
        b"https://api.openai.com@evil.test/x", b"https://api.openai.com\\@evil.test/x",
        b"https://[::1]/x",
    ],
)  # fmt: skip
def test_other_reference_is_kept(reference: bytes) -> None:
    assert local_reference(reference, ORIGIN, b"") == reference


@pytest.mark.parametrize("path", [b"//evil.test/x", b"/\\evil.test/x", b"/\t/evil.test/x"])
@pytest.mark.parametrize("base", [b"", b"/base"])
def test_reference_never_becomes_one_to_another_host(path: bytes, base: bytes) -> None:
    for reference in (ORIGIN + base + path, base + path):
        assert local_reference(reference, ORIGIN, base) == reference


@pytest.mark.parametrize(
    ("reference", "local"),
    [
        (b"https://api.openai.com/base/v1/x", b"/v1/x"),
        (b"/base/v1/x?a", b"/v1/x?a"),
        (b"/base", b"/"),
        (b"/base?a", b"/?a"),
        (b"/base/", b"/"),
    ],
)
def test_base_path_is_removed(reference: bytes, local: bytes) -> None:
    assert local_reference(reference, ORIGIN, b"/base") == local


@pytest.mark.parametrize(
    "reference",
    [b"https://api.openai.com/v1/x", b"/v1/x", b"/basement/x", b"https://a.test/base/v1/x", b"x"],
)
def test_reference_outside_the_base_path_is_kept(reference: bytes) -> None:
    assert local_reference(reference, ORIGIN, b"/base") == reference


@pytest.mark.parametrize(
    ("origin", "reference"),
    [
        (b"http://[::1]:8080", b"http://[::1]:8080/v1/x"),
        (b"http://[::1]", b"http://[::1]:80/v1/x"),
        (b"http://127.0.0.1:8080", b"http://127.0.0.1:8080/v1/x"),
        (b"https://api.test.", b"https://api.test/v1/x"),
    ],
)
def test_origin_of_any_form_is_recognised(origin: bytes, reference: bytes) -> None:
    assert local_reference(reference, origin, b"") == b"/v1/x"


@given(st.binary(max_size=40), st.sampled_from([b"", b"/base"]))
def test_reference_is_kept_or_becomes_a_path_of_the_proxy(rest: bytes, base: bytes) -> None:
    for reference in (rest, ORIGIN + rest, ORIGIN + b"/" + rest, b"/base/" + rest):
        local = local_reference(reference, ORIGIN, base)
        if local != reference:
            assert local.startswith(b"/")
            assert not local.startswith((b"//", b"/\\"))
            assert reference.endswith(local.removeprefix(b"/"))
