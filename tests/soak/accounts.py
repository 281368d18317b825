"""Every request: what the client saw, whether that was right, and what the daemon says of it.

1. A call is judged as it ends: a complete answer must be the right one; whatever else happened must
   be excused by a fault that struck it (:mod:`.table`).
2. When a process has ended, or at the end of the run, its log is laid beside the calls. Every
   request that it answered has one line, which says the same; a line without a request, or two of
   one, are wrong. A request that never came to be answered has a line or none, and if it has one,
   that does not claim an answer that nobody got.
3. The counters of ``/stats`` are the sums over the lines.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from goproxyai.errors import STATUS
from tests.soak.table import AFTERMATH, BROKEN, BY_NAME, EACH, LARGE, PROTECTIVE, SLACK
from tests.soak.truth import Truncated, Wrong, read
from tests.soak.wire import Call

MOST_COMPLAINTS = 200

_SIZE = re.compile(r"size=(\d+)")

Line = dict[str, Any]


class Accounts:
    """The books of one subject.

    :param where: which it is.
    :param strikes: as :class:`~.world.World` writes them down.
    :param ours: whether it is goproxyai, whose errors have a shape and whose outcomes need an
        excuse; of anything else only right and wrong is counted.
    :ivar calls: by number.
    :ivar complaints: everything that is not as it must be.
    :ivar outcomes: how many ended how.
    :ivar struck: outcomes by what excused them.
    """

    def __init__(
        self, where: str, strikes: dict[int | str, list[tuple[float, str]]], ours: bool = True
    ) -> None:
        self.where = where
        self.calls: dict[int, Call] = {}
        self.complaints: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.struck: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.statuses: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.caches: Counter[str] = Counter()
        self.wrong = self.hidden = 0
        self._strikes = strikes
        self.ours = ours
        self._spans: list[tuple[float, float, str]] = []
        self._begins: list[tuple[float, str]] = []
        self._open: list[tuple[float, str]] = []
        self._last_fault = float("-inf")

    def complain(self, text: str) -> None:
        """Something is not as it must be."""
        if len(self.complaints) < MOST_COMPLAINTS:
            self.complaints.append(f"{self.where}: {text}")

    # Faults that all requests meet.

    def fault_began(self, name: str, now: float) -> None:
        self._open.append((now, name))
        self._begins.append((now, name))
        self._last_fault = now

    def fault_ended(self, name: str, now: float) -> None:
        first = next((one for one in self._open if one[1] == name), None)
        if first is not None:  # one of the same kind may have begun meanwhile
            self._open.remove(first)
            self._spans.append((first[0], now, name))
        self._last_fault = now

    def stood_still(self, begin: float, end: float) -> None:
        """The harness did nothing in the meantime."""
        self._spans.append((begin, end, "the harness stood still"))

    # Calls.

    def begun(self, call: Call) -> None:
        self.calls[call.number] = call
        self.kinds[call.kind] += 1

    def refused(self, now: float) -> None:
        """No connection could be made."""
        self.outcomes["refused"] += 1
        reason = self._excuse("refused", now, now, ())
        if self.ours and reason is None:
            self.complain("a connection was refused")

    def hung(self, call: Call) -> None:
        self.complain(f"no end of {call}")

    def ended(self, call: Call) -> None:
        """Judge *call*."""
        call.outcome = self._outcome(call)
        call.body = b""
        self.outcomes[call.outcome] += 1
        self.statuses[call.status] += call.end == "answered"
        if call.end == "answered":
            self.caches[_cache(call.headers.get("cache-status", ""))] += 1
        if call.outcome in ("ok", "left", "bomb") or call.kind == "filling":
            return
        own: list[tuple[float, str]] = [
            *self._strikes.get(call.number, ()), *self._strikes.get(call.identity, ())
        ]  # fmt: skip
        if call.outcome in ("wrong", "hidden") or not self.ours:
            struck = [name for at, name in own if call.sent_at <= at <= call.done_at]
            self.struck[struck[0] if struck else "nothing of its own"][call.outcome] += 1
            return
        if own:
            self._last_fault = max(self._last_fault, own[-1][0])
        asked = _SIZE.search(call.target)
        large = asked is not None and int(asked.group(1)) > LARGE
        reason = self._excuse(call.outcome, call.sent_at, call.done_at, own, large)
        if reason is None and call.before is not None:
            reason = "what broke off the one before"  # which is judged itself
        self.struck[reason or "nothing"][call.outcome] += 1
        if reason is None:
            self.complain(f"nothing excuses {call}, struck by {own}, at {self._at(call)}")

    def _at(self, call: Call) -> str:
        open_ = [f"{name} since {since:.2f}" for since, name in self._open]
        last = [f"{a:.2f}-{b:.2f} {name}" for a, b, name in self._spans[-3:]]
        return f"{call.sent_at:.2f}-{call.done_at:.2f} ({', '.join(open_ + last)})"

    def _outcome(self, call: Call) -> str:
        if call.garbled:
            self.wrong += 1
            self.complain(f"garbled: {call}")
            return "wrong"
        if call.end != "answered":
            return call.end
        if call.kind == "bombing":
            return "bomb"
        try:
            code = _own_code(call) if self.ours else ""
            if code:
                return code
            self._check(call)
        except Truncated as error:
            self.hidden += 1
            self.complain(f"a hidden truncation: {error}: {call}")
            return "hidden"
        except Wrong as error:
            self.wrong += 1
            self.complain(f"wrong: {error}: {call}")
            return "wrong"
        return "ok"

    def _check(self, call: Call) -> None:
        if call.status == 413 and not call.body and self._was_early(call):
            return
        if not self.ours and call.headers.get("content-type", "").startswith("text/html"):
            return  # an error page
        told = read(call.body)
        if told.identity != call.identity:
            raise Wrong(f"the answer to another question, {told}")
        if told.code != call.status:
            raise Wrong(f"sent with status {told.code}")
        if told.code == 200 and told.version < call.least:
            raise Wrong(f"version {told.version}, when {call.least} was known")
        call.told = told

    def _was_early(self, call: Call) -> bool:
        return any(name == "early answer" for _, name in self._strikes.get(call.number, ()))

    def _excuse(
        self,
        outcome: str,
        begin: float,
        end: float,
        own: Iterable[tuple[float, str]],
        large: bool = False,
    ) -> str | None:
        """The fault that explains *outcome*, of those that struck the call or all calls."""
        for at, name in own:
            if begin - 5 <= at <= end:
                if outcome in BY_NAME[name].excuses:
                    return name
                if large and outcome == "cut":
                    return f"{name}, as it was asked for again"
        around: str | None = None
        open_ = [(since, float("inf"), name) for since, name in self._open]
        for since, until, name in [*self._spans[-40:], *open_]:
            if since - SLACK <= end and begin <= until + SLACK:
                fault = BY_NAME[name]
                if fault.where != EACH and outcome in fault.excuses:
                    return name
                if outcome in fault.around:
                    around = name
        for at, name in self._begins[-40:]:
            if BY_NAME[name].breaks and outcome in BROKEN and begin - SLACK <= at <= end:
                return f"{name}, as it began"
        if outcome in PROTECTIVE:
            if begin - self._last_fault < AFTERMATH:
                return "what was before"
        return around

    # The daemon's own books.

    def compare(self, lines: list[Line]) -> None:
        """Lay the log of all processes beside the calls."""
        by_number: defaultdict[int, list[Line]] = defaultdict(list)
        anonymous = 0
        for line in lines:
            if line["client"] == "127.0.0.1":
                anonymous += 1
            else:
                number = int(ipaddress.IPv6Address(line["client"])) & (2**64 - 1)
                by_number[number].append(line)
        bombs = [call for call in self.calls.values() if call.kind == "bombing"]
        answered = sum(call.end == "answered" for call in bombs)
        if not answered <= anonymous <= len(bombs):
            self.complain(f"{anonymous} lines without a client, of {answered} refused requests")
        for number in by_number.keys() - self.calls.keys():
            self.complain(f"a request that nobody sent: {by_number[number]}")
        for number, call in self.calls.items():
            if call.kind != "bombing":
                complaint = _differs(call, by_number.get(number, []))
                if complaint:
                    self.complain(f"{complaint}: {call}, {by_number.get(number)}")

    def compare_stats(self, stats: Any, lines: list[Line]) -> None:
        """Lay ``/stats``, asked when all was quiet, beside the lines of the same process."""
        requests, cache = stats["requests"], stats["cache"]
        statuses = Counter(f"{line['status'] // 100}xx" for line in lines)
        codes = Counter(line["code"] for line in lines if "code" in line)
        caches = Counter(line["cache"] for line in lines)
        ends = Counter(line["ended"] for line in lines)
        expected = {
            "total": len(lines) + 1,  # and the one that asks
            "in_flight": 1,
            "by_status": {name: statuses[name] for name in ("2xx", "3xx", "4xx", "5xx")},
            "client_gone": ends["client_gone"],
            "cut_by_upstream": ends["cut"],
            "bytes_in": sum(line["bytes_in"] for line in lines),
            "bytes_out": sum(line["bytes_out"] for line in lines),
        }
        for name, value in expected.items():
            if requests[name] != value:
                self.complain(f"/stats says {name}: {requests[name]}, the log {value}")
        if stats["errors"] != dict(codes):
            self.complain(f"/stats says errors: {stats['errors']}, the log {dict(codes)}")
        for name, key in (("hits", "HIT"), ("stale_if_error", "STALE")):
            if cache[name] != caches[key]:
                self.complain(f"/stats says {name}: {cache[name]}, the log {caches[key]}")
        for name in ("flights", "reserved"):
            if cache[name]:
                self.complain(f"/stats says {name}: {cache[name]}, when all is quiet")


def _own_code(call: Call) -> str:
    """The code of one of the proxy's own errors; empty where the answer is upstream's.

    :raises Wrong: where it is neither of its shape nor of its status.
    """
    if not call.body.startswith(b'{"error":'):
        return ""
    try:
        error = json.loads(call.body)["error"]
        code = str(error["code"])
    except (ValueError, KeyError, TypeError):
        raise Wrong("an error without its shape") from None
    if STATUS.get(code) != call.status or error["type"] != "proxy_error" or not error["message"]:
        raise Wrong("an error that says another status")
    return code


def _cache(status: str) -> str:
    """What ``Cache-Status`` says, without the numbers."""
    return "; ".join(part for part in status.split("; ")[1:] if not part.startswith("ttl="))


def _differs(call: Call, lines: list[Line]) -> str:
    """How the line of *call* contradicts it, if it does."""
    if len(lines) > 1:
        return "two lines"
    if not lines:
        return "no line" if call.end in ("answered", "cut") or call.sure else ""
    (line,) = lines
    if call.end == "answered":
        own = "" if call.outcome in ("ok", "wrong", "hidden") else call.outcome
        said = (line["status"], line["ended"], line.get("code", ""), line["bytes_out"])
        seen = (call.status, "ok", own, call.size)
        if line["cache"] == "STALE":
            seen = (*seen[:2], line.get("code", ""), seen[3])
        return "" if said == seen else f"the line says {said}, and {seen} was seen"
    if call.end == "cut" and (line["status"] != call.status or line["bytes_out"] < call.size):
        return "the line says less than was seen"
    if call.end in ("cut", "lost") and line["ended"] == "ok":
        # Written in full, and lost on the way: only where the client did not read, or at a restart.
        return "" if call.outcome in ("lost", "cut") else "the line claims an answer"
    return ""
