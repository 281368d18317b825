"""Comparison of the audited calls with the daemon's access log and ``/stats``.

1. Every answered request has exactly one line, which agrees with the answer. A line without a
   request, or two lines of one request, are problems.
2. A request that was not answered has one line or none. The line must not claim an answer that the
   client did not receive.
3. The counters of ``/stats`` are the sums over the lines.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict
from typing import Any

from tests.soak.audit import Audit
from tests.soak.connection import SWITCHED, Call

Line = dict[str, Any]


def check_log(audit: Audit, lines: list[Line]) -> None:
    """Compare the lines of all processes with the calls."""
    by_number: defaultdict[int, list[Line]] = defaultdict(list)
    without_number = 0
    for line in lines:
        if line["client"] == "127.0.0.1":
            without_number += 1
        else:
            number = int(ipaddress.IPv6Address(line["client"])) & (2**64 - 1)
            by_number[number].append(line)
    malformed = [call for call in audit.calls.values() if call.kind == "malformed"]
    answered = sum(call.end == "answered" for call in malformed)
    if not answered <= without_number <= len(malformed):
        audit.report(f"{without_number} lines without a client, {answered} malformed requests")
    for number in by_number.keys() - audit.calls.keys():
        audit.report(f"a line without a request: {by_number[number]}")
    for number, call in audit.calls.items():
        if call.kind != "malformed":
            difference = _difference(call, by_number.get(number, []))
            if difference and not _is_cut_by_fault(audit, call, by_number[number]):
                audit.report(f"{difference}: {call}, {by_number.get(number)}")


def check_stats(audit: Audit, stats: Any, lines: list[Line]) -> None:
    """Compare ``/stats`` of an idle process with the lines of that process."""
    requests, cache = stats["requests"], stats["cache"]
    statuses = Counter(f"{line['status'] // 100}xx" for line in lines)
    codes = Counter(line["code"] for line in lines if "code" in line)
    caches = Counter(line["cache"] for line in lines)
    ends = Counter(line["ended"] for line in lines)
    expected = {
        "total": len(lines) + 1,  # and the request for /stats
        "in_flight": 1,
        "by_status": {name: statuses[name] for name in ("2xx", "3xx", "4xx", "5xx")},
        "client_gone": ends["client_gone"],
        "cut_by_upstream": ends["cut"],
        "bytes_in": sum(line["bytes_in"] for line in lines),
        "bytes_out": sum(line["bytes_out"] for line in lines),
    }
    for name, value in expected.items():
        if requests[name] != value:
            audit.report(f"/stats has {name}: {requests[name]}, the log {value}")
    if stats["errors"] != dict(codes):
        audit.report(f"/stats has errors: {stats['errors']}, the log {dict(codes)}")
    for name, key in (("hits", "HIT"), ("stale_if_error", "STALE")):
        if cache[name] != caches[key]:
            audit.report(f"/stats has {name}: {cache[name]}, the log {caches[key]}")
    for name in ("flights", "reserved"):
        if cache[name]:
            audit.report(f"/stats has {name}: {cache[name]} in an idle process")


def check_levels(audit: Audit, lines: list[dict[str, Any]]) -> None:
    """Report log lines above warning level, and tracebacks."""
    for line in lines:
        text = str(line.get("message", ""))
        if line["level"] not in ("debug", "info", "warn") or "Traceback" in text:
            audit.report(f"in the log: {text[-2000:]}")


def _is_cut_by_fault(audit: Audit, call: Call, lines: list[Line]) -> bool:
    """Whether a fault cut a tunnel off of which the client had seen the end.

    The end is that of one direction. The tunnel lasts until both have ended.
    """
    if call.status != SWITCHED or [line["ended"] for line in lines] != ["cut"]:
        return False
    return audit.faults.cause("cut", call.sent_at, call.done_at, ()) is not None


def _difference(call: Call, lines: list[Line]) -> str:
    """How the line of *call* contradicts the call; empty if it does not."""
    if len(lines) > 1:
        return "two lines"
    if not lines:
        return "no line" if call.end in ("answered", "cut") or call.logged else ""
    (line,) = lines
    if call.end == "answered":
        code = "" if call.outcome in ("ok", "wrong", "hidden") else call.outcome
        logged = (line["status"], line["ended"], line.get("code", ""), line["bytes_out"])
        received = (call.status, "ok", code, call.size)
        if line["cache"] == "STALE":
            received = (*received[:2], line.get("code", ""), received[3])
        return "" if logged == received else f"the line has {logged}, the answer {received}"
    if call.end == "cut" and (line["status"] != call.status or line["bytes_out"] < call.size):
        return "the line has less than the client received"
    if call.end in ("cut", "lost") and line["ended"] == "ok":
        # Completely written but lost in transit, if the client did not read or at a restart.
        return "" if call.outcome in ("lost", "cut") else "the line claims an answer"
    return ""
