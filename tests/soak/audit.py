"""The audit of every request: was the answer correct, and did a fault cause its outcome?

A call is judged when it ends. A complete answer must be the expected one. Every other outcome needs
a fault as its cause (:mod:`.faults`).
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict

from goproxyai.errors import STATUS
from tests.soak.answers import Truncated, WrongAnswer, verify
from tests.soak.connection import SWITCHED, Call
from tests.soak.fault_history import FaultHistory
from tests.soak.faults import MAX_SHARED_BYTES

MAX_PROBLEMS = 200

_SIZE = re.compile(r"size=(\d+)")


class Audit:
    """The calls of one deployment and their outcomes.

    :param where: the deployment.
    :param injections: as :class:`~.upstream.UpstreamState` records them.
    :param is_goproxyai: whether errors must have goproxyai's format and outcomes need a cause; for
        nginx the audit only counts correct and wrong answers.
    :ivar calls: by number.
    :ivar problems: descriptions of everything that must not happen.
    :ivar by_cause: the number of outcomes by the fault that caused them.
    :ivar wrong: wrong answers.
    :ivar hidden: truncated answers that look complete.
    :ivar finished_by_upstream: tunnels in which the FIN of upstream preceded that of the client.
    """

    def __init__(
        self,
        where: str,
        injections: dict[int | str, list[tuple[float, str]]],
        is_goproxyai: bool = True,
    ) -> None:
        self.where = where
        self.is_goproxyai = is_goproxyai
        self.faults = FaultHistory()
        self.calls: dict[int, Call] = {}
        self.problems: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.by_cause: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.statuses: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.cache_statuses: Counter[str] = Counter()
        self.wrong = self.hidden = self.finished_by_upstream = 0
        self._injections = injections

    def report(self, text: str) -> None:
        """Record a problem."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{self.where}: {text}")

    def begin(self, call: Call) -> None:
        self.calls[call.number] = call
        self.kinds[call.kind] += 1

    def refused(self, now: float) -> None:
        """Record that no connection could be made."""
        self.outcomes["refused"] += 1
        if self.is_goproxyai and self.faults.cause("refused", now, now, ()) is None:
            self.report("a connection was refused")

    def hung(self, call: Call) -> None:
        self.report(f"the call does not end: {call}")

    def end(self, call: Call) -> None:
        """Judge *call*."""
        call.outcome = self._outcome(call)
        call.body = b""
        self.outcomes[call.outcome] += 1
        self.statuses[call.status] += call.end == "answered"
        if call.end == "answered":
            self.cache_statuses[_without_numbers(call.headers.get("cache-status", ""))] += 1
        if call.outcome in ("ok", "left", "malformed") or call.kind == "filling":
            return
        injected: list[tuple[float, str]] = [
            *self._injections.get(call.number, ()), *self._injections.get(call.identity, ())
        ]  # fmt: skip
        if call.outcome in ("wrong", "hidden") or not self.is_goproxyai:
            names = [name for at, name in injected if call.sent_at <= at <= call.done_at]
            self.by_cause[names[0] if names else "no injected fault"][call.outcome] += 1
            return
        if injected:
            self.faults.injected(injected[-1][0])
        size = _SIZE.search(call.target)
        large = size is not None and int(size.group(1)) > MAX_SHARED_BYTES
        cause = self.faults.cause(call.outcome, call.sent_at, call.done_at, injected, large)
        if cause is None and call.first_in_pipeline is not None:
            cause = "the end of the call before in the pipeline"  # which is judged itself
        self.by_cause[cause or "none"][call.outcome] += 1
        if cause is None:
            self.report(
                f"no fault explains {call}; injected: {injected}; "
                f"{call.sent_at:.2f}-{call.done_at:.2f} ({self.faults.recent()})"
            )

    def _outcome(self, call: Call) -> str:
        if call.parse_error:
            self.wrong += 1
            self.report(f"not HTTP: {call}")
            return "wrong"
        if call.end != "answered":
            return call.end
        if call.kind == "malformed":
            return "malformed"
        try:
            code = _proxy_error_code(call) if self.is_goproxyai else ""
            if code:
                return code
            self._verify(call)
        except Truncated as error:
            self.hidden += 1
            self.report(f"a hidden truncation: {error}: {call}")
            return "hidden"
        except WrongAnswer as error:
            self.wrong += 1
            self.report(f"wrong: {error}: {call}")
            return "wrong"
        return "ok"

    def _verify(self, call: Call) -> None:
        if call.status == SWITCHED:
            return  # the client has compared the bytes
        if call.status == 413 and not call.body and self._answered_early(call):
            return
        if not self.is_goproxyai and call.headers.get("content-type", "").startswith("text/html"):
            return  # an error page of nginx
        info = verify(call.body)
        if info.identity != call.identity:
            raise WrongAnswer(f"the answer to another request, {info}")
        if info.status != call.status:
            raise WrongAnswer(f"sent with status {info.status}")
        if info.status == 200 and info.version < call.min_version:
            raise WrongAnswer(f"version {info.version}, but {call.min_version} was known")
        call.info = info

    def _answered_early(self, call: Call) -> bool:
        return any(name == "early answer" for _, name in self._injections.get(call.number, ()))


def _proxy_error_code(call: Call) -> str:
    """The code of one of the proxy's errors; empty if the answer is the upstream's.

    :raises WrongAnswer: if the error has the wrong format or status.
    """
    if not call.body.startswith(b'{"error":'):
        return ""
    try:
        error = json.loads(call.body)["error"]
        code = str(error["code"])
    except (ValueError, KeyError, TypeError):
        raise WrongAnswer("an error without a code") from None
    if STATUS.get(code) != call.status or error["type"] != "proxy_error" or not error["message"]:
        raise WrongAnswer("an error with the wrong status, type or message")
    return code


def _without_numbers(status: str) -> str:
    """The parameters of a ``Cache-Status`` except ``ttl``."""
    return "; ".join(part for part in status.split("; ")[1:] if not part.startswith("ttl="))
