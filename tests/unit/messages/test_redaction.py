"""What may be logged."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.messages import redaction
from goproxyai.messages.redaction import (
    MAX_KEPT_TARGET_BYTES,
    MAX_LOGGED_PATH_CHARACTERS,
    mask_credentials,
    redacted_target,
)

NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
SECRETS = st.from_regex(r"Zq[A-Za-z0-9_-]{16,40}", fullmatch=True)
AROUND = st.text("abc \"',;:/?&=@#.()[]{}\n%", max_size=20)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/models", "/v1/models"),
        (b"/v1/files?limit=1&after=x", "/v1/files?limit&after"),
        (b"/v1/files?", "/v1/files?"),
        (b"/v1/files?a=b=c&&d", "/v1/files?a&&d"),
        (b"/v1/files?a=1;b=2", "/v1/files?a"),
        (b"/v1/files#secret", "/v1/files"),
        (b"/v1/a\x00b\xff c", "/v1/a%00b%FF%20c"),
        (b"*", "*"),
        (b"", ""),
        (b"http://user:pass@host/v1/models?key=x", "/v1/models?key"),
        (b"http://user:pass@host", ""),
        (b"user:pass@host:443", ""),
        (b"/v1/x?sk-abcdefgh", "/v1/x?sk-***"),
        (b"/v1/sk-abcdefgh/x", "/v1/sk-***/x"),
        (b"/v1/x;api-key=abcdefgh", "/v1/x;api-key=***"),
        (b"/v1/x;api-key=abc/def/y?limit=1", "/v1/x;api-key=***?limit"),
        (b"/v1/x%3Fapi-key=abcdefgh", "/v1/x%3Fapi-key=***"),
        (b"/v1/x%3Fapi-key%3Dabcdefgh&y=1", "/v1/x%3Fapi-key%3D***"),
        (b"/v1/x%253fapi-key%253dabcdefgh", "/v1/x%253fapi-key%253d***"),
        (b"/v1/x;%61pi%2Dkey=abcdefgh", "/v1/x;%61pi%2Dkey=***"),
        (b"/v1/x?%61pi-key=abcdefgh", "/v1/x?%61pi-key"),
        (b"/v1/x?api-key%3Dabcdefgh&b", "/v1/x?api-key&b"),
        (b"/v1/x?a&api-key%25253dabcdefgh", "/v1/x?a&api-key"),
        (b"/v1/api-key:abcdefgh/x", "/v1/api-key:***"),
        (b"/v1/%73k-abcdefgh/x", "/v1/sk-***/x"),
        (b"/v1/sk%2Dabcdefgh/x", "/v1/sk-***/x"),
        (b"/v1/%2573%256b%252dabcdefgh", "/v1/sk-***"),
        (b"/v1/sk-proj%2Dabcd%65fgh", "/v1/sk-***"),
        (b"/v1/sk%2dproj-abcdefgh?%73k-abcdefgh", "/v1/sk-***?sk-***"),
        (b"/v1/%41Iza" + b"x" * 35, "/v1/AIza***"),
        (b"/v1/a%20b/%2573", "/v1/a%20b/%2573"),
        (b"/v1/%20sk%2Dabcdefgh%FF/x", "/v1/%20sk-***%FF/x"),
    ],
)
def test_redacted_target_has_path_and_parameter_names(target: bytes, path: str) -> None:
    assert redacted_target(target) == path


@given(st.binary(max_size=2000))
def test_redacted_target_is_short_visible_ascii(target: bytes) -> None:
    text = redacted_target(target)
    assert len(text) <= MAX_LOGGED_PATH_CHARACTERS
    assert all("!" <= character <= "~" for character in text)


@given(st.lists(st.tuples(NAMES, SECRETS), min_size=1, max_size=30))
def test_redacted_target_has_no_query_value(pairs: list[tuple[str, str]]) -> None:
    query = "&".join(f"{name}={secret}" for name, secret in pairs)
    text = redacted_target(f"/v1/files?{query}".encode())
    assert "Zq" not in text


@given(SECRETS, st.data())
def test_redacted_target_has_no_key_however_it_is_encoded(secret: str, data: st.DataObject) -> None:
    def encoded(text: str) -> str:
        depth = data.draw(st.sampled_from(["", "25", "2525"]))
        which = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
        pairs = zip(text, which, strict=True)
        return "".join(f"%{depth}{ord(one):02x}" if escape else one for one, escape in pairs)

    prefix = data.draw(st.sampled_from(["/v1/", "/v1/files/", "/v1/x;", "/v1/x?a&", "/v1/x%3F"]))
    for key in (f"sk-{secret}", f"sess-{secret}", f"api-key={secret}"):
        text = redacted_target((prefix + encoded(key) + "/content").encode())
        plain = re.sub(r"%(?:25)*([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text)
        assert secret not in plain
        assert secret[:6] not in plain


def test_long_redacted_target_ends_in_ellipsis() -> None:
    text = redacted_target(b"/v1/" + b"x" * 10_000)
    assert len(text) == MAX_LOGGED_PATH_CHARACTERS
    assert text.endswith("...")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nothing to hide", "nothing to hide"),
        ("via http://user:pass@proxy:8080/", "via http://***:***@proxy:8080/"),
        ("https://token@proxy", "https://***:***@proxy"),
        ("http://u:p@ss@proxy", "http://***:***@proxy"),
        ("Authorization: Bearer abc.def==", "Authorization: Bearer ***"),
        ('{"authorization": "bearer abc"}', '{"authorization": "bearer ***"}'),
        ("Proxy-Authorization: Basic dTpw", "Proxy-Authorization: Basic ***"),
        ("Bearer Basic Bearer abc", "Bearer ***"),
        ("key sk-abcdefgh, and more", "key sk-***, and more"),
        ("sk-proj-abc_DEF-123", "sk-***"),
        ("key=sk-svcacct-abc123", "key=sk-***"),
        ("key%3Dsk-abcdefgh", "key%3Dsk-***"),
        ("ek_0123456789", "ek_***"),
        ("key%3Dsk%2Dabcdefgh", "key%3Dsk%2D***"),
        ("sk-proj%2Dabc%5FDEF%2d123 x", "sk-*** x"),
        ("AIza" + "Sy" * 17, "AIza***"),
        ("an AIza is short", "an AIza is short"),
        ("api-key: abcdefgh, and more", "api-key: ***, and more"),
        ('{"x-goog-api-key": "abcdefgh", "a": 1}', '{"x-goog-api-key": "***", "a": 1}'),
        ("OPENAI_API_KEY=abc/def==", "OPENAI_API_KEY=***"),
        ("GET /v1/x%3Fapi%2Dkey%3Dabcdefgh&b", "GET /v1/x%3Fapi%2Dkey%3D***&b"),
        ("api_key is not set", "api_key is not set"),
        ("a task-force and a disk-drive", "a task-force and a disk-drive"),
        ("http://host/path@version", "http://host/path@version"),
    ],
)
def test_credentials_are_masked(text: str, shown: str) -> None:
    assert mask_credentials(text) == shown


@given(AROUND, SECRETS, AROUND)
def test_secret_is_masked_in_all_forms(before: str, secret: str, after: str) -> None:
    for form in (
        f"Bearer {secret}",
        f"BASIC  {secret}",
        f"sk-{secret}",
        f"sk-proj-{secret}",
        f"http://user:{secret}@proxy:8080",
        f"https://{secret}@proxy",
        f"api-key={secret}",
        f"X-Goog-Api-Key: {secret}",
        f"sk%2Dproj%2D{secret}",
        f"sk%252D{secret}",
    ):
        assert secret not in mask_credentials(f"{before} {form} {after}")


@given(st.text())
def test_masking_is_idempotent(text: str) -> None:
    assert mask_credentials(mask_credentials(text)) == mask_credentials(text)


@given(st.text("abcdefghijklmnop .,!", max_size=100))
def test_plain_words_are_not_masked(text: str) -> None:
    if "basic" not in text and "bearer" not in text:
        assert mask_credentials(text) == text


def test_long_target_is_not_kept() -> None:
    redaction._kept_redacted_target.cache_clear()
    for size in (MAX_KEPT_TARGET_BYTES, MAX_KEPT_TARGET_BYTES + 1, 80_000):
        assert len(redacted_target(b"/" + b"x" * (size - 1))) <= MAX_LOGGED_PATH_CHARACTERS
    assert redaction._kept_redacted_target.cache_info().currsize == 1
