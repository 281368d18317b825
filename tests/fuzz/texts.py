"""Targets for short texts: durations, settings, and texts to redact.

The oracle of each is a second, simpler implementation. Formatted values must parse back to
themselves, and redacted texts must not contain a secret, whatever surrounds it.
"""

from __future__ import annotations

import re
from fractions import Fraction

from goproxyai.config.urls import UpstreamURL
from goproxyai.config.variable import SettingError
from goproxyai.config.variables import VARIABLES
from goproxyai.durations import MAX_NANOSECONDS, UNITS, format_duration, parse_duration
from goproxyai.messages.redaction import (
    MAX_LOGGED_PATH_CHARACTERS,
    mask_credentials,
    redacted_target,
)
from tests.fuzz.work import clear_caches, linear

SECRET = "hunter2hunter2xyz"
"""Must not be in any output."""


def split_values(data: bytes, count: int) -> list[bytes]:
    """Split *data* at NUL bytes into exactly *count* values; missing ones are empty."""
    found = data.split(b"\0", count - 1)
    return found + [b""] * (count - len(found))


# Durations.

_GO_UNITS = sorted(UNITS, key=len, reverse=True)


def go_seconds(text: str) -> Fraction | None:
    """Parse a duration as Go's ``time.ParseDuration`` does; ``None`` if it is invalid."""
    rest = text.removeprefix("+")
    if rest == "0":
        return Fraction(0)
    if not rest:
        return None
    total = 0
    while rest:
        number = ""
        while rest and (rest[0] in "0123456789" or (rest[0] == "." and "." not in number)):
            number, rest = number + rest[0], rest[1:]
        unit = next((unit for unit in _GO_UNITS if rest.startswith(unit)), None)
        if number in ("", ".") or unit is None:
            return None
        rest = rest[len(unit) :]
        whole, _, fraction = number.partition(".")
        exact = Fraction(int(whole or "0")) + Fraction(int(fraction or "0"), 10 ** len(fraction))
        total += int(exact * UNITS[unit])
    return Fraction(total, 10**9) if total <= MAX_NANOSECONDS else None


def check_durations(data: bytes) -> None:
    """Compare the parsing of durations with Go's algorithm, and format the result."""
    text = data.decode("utf-8", "replace")
    try:
        with linear(len(data)):
            seconds = parse_duration(text)
    except ValueError:
        assert len(text) > 256 or go_seconds(text) is None, "Go accepts it"
        return
    exact = go_seconds(text)
    assert exact is not None, "Go rejects it"
    assert seconds == float(exact)
    printed = format_duration(seconds)
    again = parse_duration(printed)
    assert abs(Fraction(again) - Fraction(seconds)) <= Fraction(seconds) / 2**50
    assert format_duration(again) == printed, "the formatted duration does not parse back"


DURATIONS = (
    b"1h30m", b"1.5s", b"250ms", b"0", b"+0", b"5m0s", b"2562047h47m16.854775807s", b".5s", b"1.s",
    "1\u00b5s".encode(), "1\u03bcs".encode(), b"1us", b"1ns", b"-1s", b"1e3s", b"1_0s", b" ", b".",
    b"9223372036854775807ns", b"9223372036854775808ns", b"\xd9\xa1s", b"0.000000000000001h", b"h",
)  # fmt: skip


# Settings.


def check_settings(data: bytes) -> None:
    """Every variable is parsed, or the error is one short line of ASCII without a secret.

    :param data: the variable's index in its first byte; the rest is the value.
    """
    index, value = (data[0] if data else 0), data[1:]
    text = value.decode("utf-8", "replace")
    variable = VARIABLES[index % len(VARIABLES)]
    clear_caches()
    try:
        with linear(len(data), base=20_000):
            read = variable.read(text)
    except SettingError as error:
        line = str(error)
        assert line.isascii()
        assert line.isprintable(), "the error is not one line"
        assert len(line) < 1300
        assert variable.name in line
        if variable.name in ("ADMIN_TOKEN", "CACHE_SNAPSHOT_KEY") and len(text.strip()) > 9:
            assert text.strip() not in line
    else:
        assert variable.read(text) == read, "the result is not reproducible"
        if isinstance(read, UpstreamURL):
            assert variable.read(read.text) == read, "the text does not parse back"
    _check_url_secret(text)


def _check_url_secret(text: str) -> None:
    """No error or representation contains the password of a URL, even if the URL is invalid."""
    proxy = next(one for one in VARIABLES if one.name == "PROXY_URL")
    for candidate in (
        f"http://user:{SECRET}@{text}",
        f"{text}:{SECRET}@proxy",
        f"//u:{SECRET}@{text}@",
    ):
        try:
            url = proxy.read(candidate)
        except SettingError as error:
            assert SECRET not in str(error)
        else:
            assert SECRET not in url.masked
            assert SECRET not in repr(url)


SETTINGS = (
    *(bytes([index]) + variable.default.encode() for index, variable in enumerate(VARIABLES)),
    b"http://user:password@proxy:8080", b"https://[::1]:443/v1/", b"http://", b"@", b":", b"/",
    b"?", b"#", b"%40", b"%00", b"..", b"[", b"]", b"1.2.3.4", b"tcp:8080:interface=127.0.0.1",
    b" ", b"\n", b"\x1b[0m", b"sk-abcdefgh", b"Bearer ", b"99999999999999999999", b"0.5",
    b"\xc2\xa0",
)  # fmt: skip


# Redaction of logged texts.

_KEPT_CHARACTERS = re.compile(r"[\x21-\x7e ]*")


def check_redaction(data: bytes) -> None:
    """A redacted text contains no secret, whatever surrounds it; masking is idempotent."""
    clear_caches()
    with linear(len(data), base=5000):
        path = redacted_target(data)
    assert len(path) <= MAX_LOGGED_PATH_CHARACTERS
    assert _KEPT_CHARACTERS.fullmatch(path), "the path is not visible ASCII"
    text = data.decode("latin-1")
    with linear(len(data), base=5000):
        once = mask_credentials(text)
    assert mask_credentials(once) == once, "masking is not idempotent"
    assert len(once) <= 2 * len(text) + 16
    before, after = split_values(data, 2)
    clear_caches()
    query = before.replace(b"&", b"") + b"=" + SECRET.encode()
    assert SECRET not in redacted_target(b"/v1/files?" + query + after)
    for form in ("https://user:{}@host", "https://{}@host", "Bearer {}", "basic {}", "sk-{}"):
        planted = before.decode("latin-1") + " " + form.format(SECRET)
        assert SECRET not in mask_credentials(planted), "a secret in a text"
        assert SECRET not in mask_credentials(planted + " " + after.decode("latin-1")), (
            "a secret in a text"
        )


REDACTION = (
    b"/v1/files?limit=1&after=x", b"http://user:pass@host/v1/a?b=c", b"Bearer abc", b"Basic ",
    b"bearer bearer x", b"sk-abcdefgh", b"sess-abcd", b"ek_abcd", b"%20sk-abcd", b"://", b"@", b"?",
    b"=", b"&", b"#", b"*", b"\0", b" ", b"\n", b"\xff", b'"', b"'", b"***", b"://a@b@c", b"sk-",
)  # fmt: skip
