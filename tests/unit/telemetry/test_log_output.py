"""The log's lines: JSON or text, levels, and masked credentials."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from goproxyai.telemetry.events import Batch, Event
from goproxyai.telemetry.log_output import LogOutput, OpenedLog, json_lines
from goproxyai.telemetry.outcome import Ending
from goproxyai.usage.usage import Usage
from tests.unit.telemetry.samples import UNIX_TIME, MemoryWriter, make_event

LEVELS = ["debug", "info", "warn", "error", "critical"]


def open_output(
    as_json: bool | None, level: str = "info", is_terminal: bool = False
) -> tuple[LogOutput, MemoryWriter]:
    writer = MemoryWriter()

    def opened(report: Callable[[int], bytes]) -> OpenedLog:
        writer.report = report
        return OpenedLog(writer, is_terminal)

    return LogOutput(opened, as_json, level).open(), writer


# Requests.


def test_json_lines_have_the_fields_of_the_events() -> None:
    output, stream = open_output(True)
    hit = make_event()
    failed = make_event(
        status=502, code="upstream_unreachable", detail="a\nb", upstream_seconds=0.001,
        upstream_request_id=b"req_1", usage=Usage("m", 1, 2, 3, 4),
    )  # fmt: skip
    output.requests([hit, failed], Batch(UNIX_TIME))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    for line, event in zip(lines, (hit, failed), strict=True):
        assert list(line)[:3] == ["time", "level", "event"]
        assert (line.pop("time"), line.pop("level"), line.pop("event")) == (
            "2023-11-14T22:13:20.250Z", "info", "request",
        )  # fmt: skip
        fields = event.fields(Batch(UNIX_TIME))
        del fields["time"]
        assert line == fields
    assert (lines[1]["status"], lines[1]["detail"]) == (502, "a\nb")
    assert lines[1]["ms"] == {"total": 1.25, "upstream": 1.0, "proxy": 0.25}


def test_text_lines_are_readable() -> None:
    output, stream = open_output(False)
    cut = make_event(
        ending=Ending.CUT, code="upstream_timeout", upstream_request_id=b"req_1",
        usage=Usage("m", 1, 2, 3, 4),
    )  # fmt: skip
    output.requests([make_event(), cut], Batch(UNIX_TIME, sample=0.5))
    first, second = stream.getvalue().splitlines()
    assert first == (
        "2023-11-14T22:13:20.250Z GET /v1/models?limit 200 HIT 1.2ms 192.0.2.1 in=1 out=2"
        " request_id=id-1 sample=0.5"
    )
    assert second.endswith(
        "out=2 (cut) code=upstream_timeout request_id=id-1 upstream_request_id=req_1"
        " model=m tokens=1+2"
    )


FORGERIES = [
    "a\nb", "a\r\nb", "\x1b[2J", "\x9b2J", "\x85", "\u2028", "\u2029", "\u202e", "\u2066",
    "\u200f", "\ufeff", "\x00", "\x7f", "\udc80", "\xa0", "x status=500", 'x" code=draining "',
    "a\\",
]  # fmt: skip
"""Texts that would control a terminal, or add a field or a line, if they were not escaped."""


@pytest.mark.parametrize("text", FORGERIES)
def test_value_in_text_line_is_one_quoted_word(text: str) -> None:
    output, stream = open_output(False)
    event = make_event(
        method=text.encode("utf-8", "replace"), path=text, client=text, code=text, detail=text,
        bypass_reason=text, client_subject=text,
        upstream_request_id=text.encode("latin-1", "replace"), usage=Usage(text, 1, 2, 3, 4),
    )  # fmt: skip
    output.requests([event, make_event()], Batch(UNIX_TIME))
    line, last, end = stream.getvalue().split("\n")
    assert (last, end) == (text_line(make_event()), "")
    assert line.isprintable()
    words = re.findall(r'(?:[^ "]|"(?:[^"\\]|\\.)*")+', line)
    names = [word.partition("=")[0] for word in words[7:]]
    assert names == [
        "in", "out", "code", "detail", "request_id", "upstream_request_id", "client_subject",
        "model", "tokens",
    ]  # fmt: skip
    assert words[3] == "200"


def text_line(event: Event) -> str:
    output, stream = open_output(False)
    output.requests([event], Batch(UNIX_TIME))
    return stream.getvalue().removesuffix("\n")


def test_text_line_has_a_dash_for_an_empty_value() -> None:
    assert " CONNECT - 405 " in text_line(make_event(method=b"CONNECT", path="", status=405))


@pytest.mark.parametrize("text", FORGERIES)
def test_message_in_text_forges_no_line_and_controls_no_terminal(text: str) -> None:
    output, stream = open_output(False)
    log = Logger(namespace="a", observer=output)
    log.info("first {text} last", text=text)
    first, *rest = stream.getvalue().removesuffix("\n").split("\n")
    assert first.partition(" ")[2].startswith("info [a] first ")
    assert all(line.startswith("    ") for line in rest)
    assert all(line.isprintable() for line in (first, *rest))
    assert "last" in (rest or [first])[-1]


@given(
    st.dictionaries(st.sampled_from(["client", "detail", "code", "path"]), st.text(min_size=1)),
    st.binary(min_size=1),
    st.floats(0, 1e6),
    st.integers(0, 1 << 62),
)
def test_json_line_of_any_event_is_ascii_and_has_its_fields(
    texts: dict[str, str], upstream_id: bytes, seconds: float, count: int
) -> None:
    output, stream = open_output(True)
    event = make_event(
        seconds=seconds, upstream_seconds=seconds, bytes_in=count,
        upstream_request_id=upstream_id, **texts,
    )  # fmt: skip
    output.requests([event, make_event()], Batch(UNIX_TIME))
    first, second = stream.getvalue().splitlines()
    assert stream.getvalue().isascii()
    assert json.loads(second)["request_id"] == "id-1"
    line, fields = json.loads(first), event.fields(Batch(UNIX_TIME))
    assert (line.pop("time"), line.pop("level"), line.pop("event")) == (
        "2023-11-14T22:13:20.250Z", "info", "request",
    )  # fmt: skip
    del fields["time"]
    assert line == fields


@pytest.mark.parametrize("text", ["é", "\udc80", "\x7f", "\n\x00"])
def test_json_lines_escape_all_but_printable_ascii(text: str) -> None:
    lines = json_lines([{"a": text}, {"a": "b"}]).decode("ascii")
    assert lines == f'{{"a":{json.dumps(text)}}}\n{{"a":"b"}}\n'


# Formats and levels.


@pytest.mark.parametrize(
    ("as_json", "is_terminal", "expected"),
    [(None, True, False), (None, False, True), (True, True, True), (False, False, False)],
)
def test_format_follows_the_stream_unless_configured(
    as_json: bool | None, is_terminal: bool, expected: bool
) -> None:
    output, stream = open_output(as_json, "info", is_terminal)
    Logger(namespace="a", observer=output).info("hello")
    assert stream.getvalue().startswith("{") is expected


@pytest.mark.parametrize("as_json", [True, False])
def test_other_log_events_are_lines_with_level_and_source(as_json: bool) -> None:
    output, stream = open_output(as_json)
    Logger(namespace="some.where", observer=output).warn("it is {what}", what="odd")
    (line,) = stream.getvalue().splitlines()
    if as_json:
        document = json.loads(line)
        assert document.pop("time").endswith("Z")
        assert document == {
            "level": "warn", "event": "log", "source": "some.where", "message": "it is odd",
        }  # fmt: skip
    else:
        assert line.endswith("Z warn [some.where] it is odd")


@pytest.mark.parametrize(("level", "expected"), [("info", []), ("debug", ["twisted"])])
def test_legacy_notices_of_twisted_are_debug_lines(level: str, expected: list[str]) -> None:
    output, stream = open_output(True, level)
    log = Logger(namespace="log_legacy", observer=output)
    log.info("ServerFactory starting on 8080")
    assert [json.loads(line)["source"] for line in stream.getvalue().splitlines()] == expected
    log.error("odd")
    assert json.loads(stream.getvalue().splitlines()[-1])["level"] == "error"


class Facts:
    """A report."""

    def fields(self) -> dict[str, object]:
        return {"api": ["http://a/v1"]}

    def pairs(self) -> dict[str, str]:
        return {"api": "http://a/v1 http://b/v1", "proxy": ""}

    def banner(self) -> str:
        return "goproxyai\n  api \x1b[2J"


def log_start(output: LogOutput) -> None:
    log = Logger(namespace="a", observer=output)
    log.info("starts", report=Facts())
    log.warn("odd", is_reported=True)
    Logger(namespace="twisted.scripts.x", observer=output).info("reactor class")
    log.info("last")


def test_report_is_one_json_event() -> None:
    output, stream = open_output(True, is_terminal=True)
    log_start(output)
    first, *rest = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info", "event": "start", "source": "a", "message": "starts",
        "api": ["http://a/v1"],
    }  # fmt: skip
    assert [line["message"] for line in rest] == ["odd", "reactor class", "last"]


def test_report_is_one_line_of_text_without_a_terminal() -> None:
    output, stream = open_output(False)
    log_start(output)
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith('info [a] starts api="http://a/v1 http://b/v1"')
    assert len(rest) == 3


def test_report_is_a_banner_on_a_terminal_and_what_repeats_it_is_left_out() -> None:
    output, stream = open_output(None, is_terminal=True)
    log_start(output)
    *banner, last = stream.getvalue().splitlines()
    assert banner == ["goproxyai", "  api \\x1b[2J", ""]
    assert last.endswith("info [a] last")


def test_warnings_are_lines_where_the_level_excludes_the_banner() -> None:
    output, stream = open_output(None, "warn", is_terminal=True)
    log_start(output)
    assert stream.getvalue().endswith("warn [a] odd\n")


@pytest.mark.parametrize(("level", "first"), [("debug", 0), ("info", 1), ("warn", 2), ("error", 3)])
def test_events_below_the_level_are_not_written(level: str, first: int) -> None:
    output, stream = open_output(True, level)
    log = Logger(namespace="a", observer=output)
    for name in LEVELS:
        log.emit(LogLevel.levelWithName(name), "x")
    written = [json.loads(line)["level"] for line in stream.getvalue().splitlines()]
    assert written == LEVELS[first:]
    assert output.wants_requests is (first <= 1)


@pytest.mark.parametrize("message", ["boom", "two\nlines", "Bearer sk-secret1234 in it"])
def test_failure_is_one_json_line_with_its_traceback(message: str) -> None:
    output, stream = open_output(True)
    log = Logger(namespace="a", observer=output)
    try:
        raise ValueError(message)
    except ValueError:
        log.failure("while {doing}", doing="this")
    (line,) = stream.getvalue().splitlines()
    document = json.loads(line)
    assert document["level"] == "critical"
    assert document["message"].startswith("while this")
    assert "Traceback" in document["message"]
    assert "ValueError: " in document["message"]
    assert "secret1234" not in document["message"]


def test_failure_in_text_has_its_traceback() -> None:
    output, stream = open_output(False)
    Logger(namespace="a", observer=output).failure("odd", Failure(ValueError("boom")))
    assert "critical [a] odd" in stream.getvalue()
    assert "ValueError: boom" in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    ["http://user:pa55word@proxy:1", "Bearer pa55word", "Basic pa55word==", "sk-pa55word"],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_credentials_in_other_log_events_are_masked(text: str, as_json: bool) -> None:
    output, stream = open_output(as_json)
    Logger(namespace="a", observer=output).info("cannot reach {it}", it=text)
    assert "cannot reach" in stream.getvalue()
    assert "pa55word" not in stream.getvalue()


def test_event_that_cannot_be_formatted_is_written() -> None:
    output, stream = open_output(True)
    Logger(namespace="a", observer=output).info("{a.b.c} {", a=1)
    output({})
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["log"] * 2


def test_nothing_is_written_before_the_log_is_open() -> None:
    writer = MemoryWriter()
    output = LogOutput(lambda _: OpenedLog(writer, False), True, "info")
    Logger(namespace="a", observer=output).info("early")
    output.requests([make_event()], Batch(UNIX_TIME))
    output.start()
    output.reopen()
    output.finish()
    assert (writer.getvalue(), writer.calls, output.dropped) == ("", [], 0)


# The writer.


@pytest.mark.parametrize("as_json", [True, False])
def test_dropped_lines_are_reported_in_the_format_of_the_log(as_json: bool) -> None:
    _, writer = open_output(as_json)
    line = writer.report(12).decode("ascii")
    text = "12 log lines were dropped: the log's reader or disk did not accept them"
    if as_json:
        document = json.loads(line)
        assert document.pop("time").endswith("Z")
        assert document == {
            "level": "warn", "event": "log", "source": "goproxyai.log", "message": text,
        }  # fmt: skip
    else:
        assert line.endswith(f"Z warn [goproxyai.log] {text}\n")


def test_text_that_is_not_unicode_is_written_escaped() -> None:
    output, writer = open_output(False)
    Logger(namespace="a", observer=output).info("é \udc80")
    assert writer.getvalue().endswith("é \\udc80\n")


def test_output_controls_its_writer() -> None:
    output, writer = open_output(True)
    output.start()
    output.reopen()
    output.finish()
    writer.dropped = 3
    assert (writer.calls, output.dropped) == (["start", "reopen", "finish"], 3)
