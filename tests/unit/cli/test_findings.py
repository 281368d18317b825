"""The findings as text and as JSON."""

from __future__ import annotations

import json

from goproxyai.cli.check_command import json_text
from goproxyai.cli.findings import Finding, Result, has_failed, report

FINDINGS = [
    Finding("files", Result.OK, "none are used"),
    Finding(
        "DNS", Result.OK, "a: 192.0.2.1", seconds=0.01234, upstream="http://a", proxy="http://p"
    ),
    Finding("TCP", Result.FAILED, "refused", "Check it. " * 10, 1.5, "http://a", "http://p"),
    Finding("HTTP", Result.NOT_REACHED, upstream="http://a", proxy="http://p"),
    Finding("DNS", Result.OK, upstream="http://b"),
]


def test_text_has_the_steps_below_their_upstream() -> None:
    assert report(FINDINGS, 80).split("\n") == [
        "files          ok                      none are used",
        "",
        "http://a via http://p",
        "  DNS          ok             12.3 ms  a: 192.0.2.1",
        "  TCP          failed       1500.0 ms  refused",
        *[" " * 39 + "Check it. Check it. Check it. Check it."] * 2,
        " " * 39 + "Check it. Check it.",
        "  HTTP         not reached",
        "",
        "http://b",
        "  DNS          ok",
    ]


def test_json_has_every_finding_and_the_verdict() -> None:
    document = json.loads(json_text(FINDINGS))
    assert document["ok"] is False
    assert document["findings"][1] == {
        "name": "DNS", "result": "ok", "detail": "a: 192.0.2.1", "advice": "", "ms": 12.3,
        "upstream": "http://a", "proxy": "http://p",
    }  # fmt: skip
    assert document["findings"][0]["ms"] is None


def test_warning_is_no_failure() -> None:
    assert has_failed(FINDINGS)
    assert not has_failed([Finding("HTTP", Result.WARNING)])
