"""Targets for bodies: event streams, request bodies, usage, prices, the cache snapshot.

The oracle of each is a second, simpler implementation.
"""

from __future__ import annotations

import gzip
import io
import json
from contextlib import suppress
from typing import Any

from goproxyai.cache import snapshot_stream
from goproxyai.cache.coalescing import MAX_PARSED_BODY_BYTES, is_deterministic
from goproxyai.cache.record import Record
from goproxyai.cache.snapshot_format import read_records, write_records
from goproxyai.cache.snapshot_stream import SnapshotError
from goproxyai.cache.verdict import StreamJudge, coded_stream_succeeded
from goproxyai.usage.prices import PricesError, parse
from goproxyai.usage.scanner import UsageScanner, usage_of
from goproxyai.usage.usage import TAIL_BYTES, Details, Usage
from tests.fuzz.work import linear

# The ends of event streams.


def check_streams(data: bytes) -> None:
    """Compare the verdict on a stream with that on its pieces, and with its events.

    :param data: the size of a piece, less 1, in its first byte; the rest is the stream.
    """
    first, body = data[:1], data[1:]
    size = 1 + (first[0] if first else 0)
    whole, cut = StreamJudge(), StreamJudge()
    with linear(len(body), base=20_000):
        whole.add(body)
    for at in range(0, len(body), size):
        cut.add(body[at : at + size])
    found = whole.succeeded()
    assert cut.succeeded() is found
    if found:
        _check_success(body)
    with linear(len(body), base=20_000):
        assert coded_stream_succeeded(b"gzip", body) in (True, False)


def _check_success(body: bytes) -> None:
    """Assert that no event of a stream is a failure, and that the last one is an end."""
    text = body.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    ended = False
    for block in text.split(b"\n\n"):
        name, data = b"", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"event":
                name = value.removeprefix(b" ")
            elif field == b"data":
                data.append(value.removeprefix(b" "))
        joined = b"\n".join(data)
        assert not _is_failure(name, joined)
        if joined:
            document = _json(joined)
            kind = document.get("type") if isinstance(document, dict) else None
            ended = joined.strip() == b"[DONE]" or b"response.completed" in (
                name,
                str(kind).encode(),
            )
    assert ended


_FAILED = (b"error", b"response.failed")


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_failure(name: bytes, data: bytes) -> bool:
    document = _json(data)
    if name in _FAILED:
        return True
    if not isinstance(document, dict):
        return False
    return bool(document.get("error")) or document.get("type") in ("error", "response.failed")


STREAMS = (
    b'data: {"a":1}\n\n', b"data: [DONE]\n\n", b"data: [DONE]", b"event: error\ndata: {}\n\n",
    b'data: {"error":{"message":"x"}}\n\n', b"event: response.completed\ndata: {}\n\n",
    b": ping\n\n", b'data: {"type":"response.completed"}\n\n', b'data: {"type":"error"}\n\n',
    b"data:x\ndata:y\n\n", b"\r\n\r\n", b"\r\r", b"\n", b"\r", b"\n\n", b"data", b"data:",
    b"event:", b"id: 1\n", b"retry: 1\n", b"[DONE]", b"\xef\xbb\xbf", b"\0", b":", b" ",
    b'{"type":["error"]}', b"\x1f\x8b\x08", b"[[[[[[[[",
    b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\n', b'"finish_reason":null',
    b'data: {"choices":[{"index":1,"finish_reason":null}]}\n\n',
)  # fmt: skip


# Deterministic requests.


def check_coalescing(data: bytes) -> None:
    """Compare the search for ``temperature`` and ``seed`` with the parsed body."""
    with linear(len(data)):
        found = is_deterministic(data)
    document = _json(data)
    if not isinstance(document, dict):
        assert not found
        return
    temperature, seed = document.get("temperature"), document.get("seed")
    expected = (type(temperature) in (int, float) and temperature == 0) or type(seed) is int
    unescaped = b'"temperature"' in data or b'"seed"' in data
    assert found == (expected and unescaped and len(data) <= MAX_PARSED_BODY_BYTES)


COALESCING = (
    b'{"temperature":0}', b'{"temperature":0.0,"seed":7}', b'{"seed":null}', b'"temperature":',
    b"0", b'"seed":', b"true", b"false", b"null", b"-0.0", b"1e-999", b"NaN", b"{", b"}", b",",
    b'"', b"[", b'{"a":{"seed":1}}', b"\\u0073eed", b"1" * 20, b" ", b"\xff\xfe",
    b'{"seed":1,"seed":2.5}', b"]",
)  # fmt: skip


# Usage and prices.


def check_usage(data: bytes) -> None:
    """Compare the usage from whole bodies, pieces, gzip, and the parsed body.

    :param data: the size of a piece, less 1, in its first byte; the rest is the body.
    """
    first, body = data[:1], data[1:]
    size = 1 + (first[0] if first else 0)
    with linear(len(body)):
        whole = usage_of({}, body)
    plain, compressed = UsageScanner({}), UsageScanner({b"content-encoding": b"gzip"})
    zipped = gzip.compress(body)
    with linear(len(body) + len(zipped)):
        for at in range(0, len(body), size):
            plain.add(body[at : at + size])
        for at in range(0, len(zipped), size):
            compressed.add(zipped[at : at + size])
    assert len(body) <= TAIL_BYTES
    assert plain.usage() == compressed.usage() == whole
    invalid = UsageScanner({b"content-encoding": b"gzip"})
    invalid.add(body)
    invalid.usage()
    document = _json(body)
    if isinstance(document, dict) and body.count(b'"usage"') == 1 and b"\\u" not in body:
        usage = document.get("usage")
        if isinstance(usage, dict) and whole is not None:
            assert whole[1:3] == _prompt_and_completion(usage)


def _prompt_and_completion(usage: dict[str, Any]) -> tuple[int, int]:
    prompt, completion = (
        next((usage[name] for name in names if usage.get(name) is not None), 0)
        for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
    )
    return prompt, completion


USAGE = (
    b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}', b'"usage":',
    b'{"model":"m","usage":{"input_tokens":1,"output_tokens":2}}', b'"prompt_tokens":', b"{", b"}",
    b'"prompt_tokens_details":{"cached_tokens":4}', b'"total_tokens":3', b'"completion_tokens":2',
    b'"completion_tokens_details":{"reasoning_tokens":5}', b'"model":', b'"gpt-6-sol"', b",", b":",
    b'"input_tokens_details":{"cache_write_tokens":6}', b'"audio_tokens":7', b'"total_tokens":null',
    b'"usage":null', b'"usage"', b"null", b"-1", b"1.5", b"9" * 13, b"data: ", b"\n\n", b" ", b"\n",
    b"data: [DONE]\n\n", b'"', b"\\", b"[[[[[[[[[", b"\xff", b"\0", b"true", b"1e5", b'"a":',
)  # fmt: skip


def check_prices(data: bytes) -> None:
    """An accepted price table has all models of the document, and no cost is negative."""
    try:
        table = parse(data)
    except PricesError as error:
        assert str(error).isascii()
        return
    document = _json(data)
    assert isinstance(document, dict)
    assert set(table.table) == set(document)
    for model in document:
        price = table.price(model)
        assert (price is None) == (model == "")
        if price is not None:
            assert price.cost(Usage(model, 7, 5, 3, 1, Details(2, 1, 4, 9))) >= 0


PRICES = (
    b'{"gpt-6-sol":{"prompt":2,"cached":0.2,"completion":10}}', b'{"a":{"prompt":1}}', b"{", b"}",
    b'"prompt"', b'"cached"', b'"completion"', b":", b",", b"1e400", b"-0.0", b"NaN", b"1e6", b"0",
    b"999999.9", b'"cache_write"', b"true", b"null", b"[[[[[[[[[", b'""', b'"m-1"', b"\xff",
    b"\xef\xbb\xbf", b" ",
)  # fmt: skip


# The cache snapshot.

_HEADER = snapshot_stream.new_header(bytes(range(snapshot_stream.SALT_BYTES)))
_KEY, _CONTEXT = bytes(32), b"https://api.openai.com"
_RECORDS = [
    Record(b"k" * 32, 200, b"X: y\r\n", b"body", None, 3, 1e9, 2e9, b"/v1/models", b"o" * 16),
    Record(b"l" * 32, 200, b"", b"", b"\0" * 8, 0, 1e9, 2e9, b"/v1/chat/completions", b"p" * 16),
]
_FILE = b"".join(write_records(_RECORDS, _HEADER, _KEY, _CONTEXT))[len(_HEADER) :]


def _records(content: bytes) -> list[Record]:
    """The records of a file whose header is followed by *content*."""
    return list(read_records(io.BytesIO(content).read, _HEADER, _KEY, _CONTEXT))


def check_snapshots(data: bytes) -> None:
    """A changed file is refused, and an authentic file takes no more memory than its size."""
    with suppress(SnapshotError):
        snapshot_stream.derive_key(data[: snapshot_stream.HEADER_BYTES - 1], b"passphrase")
        raise AssertionError("a key is derived from an incomplete header")
    place, flip, cut = (*data[:3], 0, 0, 0)[:3]
    changed = bytearray(_FILE)
    changed[place % len(_FILE)] ^= flip
    content = bytes(changed[: len(_FILE) - cut % len(_FILE)]) + data[3:]
    try:
        found = _records(content)
    except SnapshotError:
        assert content != _FILE
    else:
        assert content == _FILE, "a changed file is accepted"
        assert found == _RECORDS
    authentic = b"".join(snapshot_stream.encrypt([data], _HEADER, _KEY, _CONTEXT))
    records: list[Record] = []
    with suppress(SnapshotError), linear(len(data)):
        records += _records(authentic)
    taken = sum(
        len(one.head) + len(one.body) + len(one.path) + len(one.owner) + len(one.timing or b"")
        for one in records
    )
    assert taken <= len(data), "the records are larger than the file"


_NONE = b"\xff" * 8
_SIZES = (b"\0" * 8, b"\0" * 7 + b"\1", b"\0" * 7 + b"\4", _NONE)
_NUMBERS = b"k" * 32 + b"\0\xc8" + b"\0" * 24
SNAPSHOTS = (
    _NUMBERS + _SIZES[2] + _NONE + _SIZES[2] * 2 + _SIZES[0] + b"headpathownr",
    b"\0" * 98, b"\0" * 97, snapshot_stream.MAGIC, snapshot_stream.MAGIC + b"\3", *_SIZES,
    b"\x7f\xf0" + b"\0" * 6, b"\0", b"\1", b"\x7f\xff\xff\xff\xff\xff\xff\xff",
)  # fmt: skip
