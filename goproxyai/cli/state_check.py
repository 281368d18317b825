"""Tries each step to the server of ``STATE_URL``, as the service would take it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from hiredis import ReplyError
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeadlinePassed
from twisted.internet.error import ConnectionRefusedError as RefusedError
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from goproxyai.cli.findings import Finding, Result
from goproxyai.config.settings import Settings
from goproxyai.config.state_url import StateURL
from goproxyai.egress.state_server import login_of, state_server
from goproxyai.egress.tls import tls_without_alpn
from goproxyai.state.redis.connection import (
    Argument,
    CommandFailed,
    RedisConnection,
    Reply,
    describe,
)
from goproxyai.state.redis.error_replies import problem_of
from goproxyai.state.redis.scripts import LEASE

STEP_SECONDS: Final = 5.0
"""Deadline of each step."""

LEAST_VERSION: Final = 6

MEMORY_ADVICE: Final = (
    "Set maxmemory, and maxmemory-policy allkeys-lru: a server that is full and does not evict is "
    "not used until it has room."
)

TLS_ADVICE: Final = (
    "Check that STATE_URL has the host name of the certificate and a port with TLS, and that "
    "SSL_CERT_FILE has its root certificate."
)

_Found = tuple[Result, str, str]
"""The result, what was found, and what to do."""


class StateCheck:
    """The check of the shared state.

    :param tls: returns client TLS for a host.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        url: StateURL,
        tls: Callable[[str], Any] = tls_without_alpn,
    ) -> None:
        self._reactor = reactor
        self._url = url
        self._prefix = settings.state_prefix
        self._server = state_server(reactor, url, tls)
        self._connection: RedisConnection | None = None

    async def run(self) -> list[Finding]:
        """Return a finding for each step."""
        steps: list[tuple[str, Callable[[], Awaitable[_Found]]]] = [
            ("CONNECT", self._connect), ("AUTH", self._log_in), ("PING", self._ping),
            ("SCRIPT", self._run_script), ("SERVER", self._look_at_server),
            ("SUBSCRIBE", self._subscribe),
        ]  # fmt: skip
        findings: list[Finding] = []
        for name, step in steps:
            if any(each.result is Result.FAILED for each in findings):
                findings.append(Finding(name, Result.NOT_REACHED, upstream=self._url.masked))
                continue
            began = self._reactor.seconds()
            try:
                result, detail, advice = await step()
            except Exception:
                result, (detail, advice) = Result.FAILED, self._problem(Failure())
            seconds = self._reactor.seconds() - began
            findings.append(Finding(name, result, detail, advice, seconds, self._url.masked))
        if self._connection is not None:
            self._connection.close()
        return findings

    async def _connect(self) -> _Found:
        """Resolve the name, ask the Sentinels, and connect, with TLS."""
        finding: Deferred[Any] = self._server.find()
        endpoint = await finding.addTimeout(STEP_SECONDS, self._reactor)
        connecting: Deferred[Any] = endpoint.connect(_OneConnection(self._reactor))
        self._connection = await connecting.addTimeout(STEP_SECONDS, self._reactor)
        if self._url.secured:
            return await self._finish_handshake()
        return Result.OK, "a Unix socket" if self._url.socket else "without TLS", ""

    async def _finish_handshake(self) -> _Found:
        """Wait for a reply: the connection is used before the certificate is verified."""
        with suppress(ReplyError):  # a server with a password expects it first
            try:
                await self._ask("PING")
            except CommandFailed as error:
                return Result.FAILED, str(error), TLS_ADVICE
        return Result.OK, "TLS, the certificate is valid", ""

    async def _log_in(self) -> _Found:
        for command in login_of(self._url).commands():
            await self._ask(*command)
        named = "no password in STATE_URL" if self._url.password is None else "accepted"
        return Result.OK, f"{named}; database {self._url.database}", ""

    async def _ping(self) -> _Found:
        await self._ask("PING")
        return Result.OK, "", ""

    async def _run_script(self) -> _Found:
        """Lease a token, as for a client."""
        await self._ask("EVAL", LEASE.text, 1, f"{self._prefix}check", 60, 1)
        return Result.OK, "a token was leased", ""

    async def _look_at_server(self) -> _Found:
        try:
            reply = await self._ask("INFO")
        except ReplyError as error:
            if "NOPERM" in str(error):
                return Result.OK, "version and memory are unknown: no permission for INFO", ""
            raise
        return judge_server(reply.decode("utf-8", "replace"))

    async def _subscribe(self) -> _Found:
        await self._ask("SUBSCRIBE", f"{self._prefix}events:{self._url.database}")
        return Result.OK, "", ""

    def _ask(self, *arguments: Argument) -> Deferred[Reply]:
        """Send a command; the Deferred fails with an error reply."""
        assert self._connection is not None, "connected"
        done: Deferred[Reply] = Deferred()

        def replied(reply: Reply) -> None:
            if isinstance(reply, Exception):
                done.errback(reply)
            else:
                done.callback(reply)

        self._connection.send(replied, *arguments)
        return done

    def _problem(self, failure: Failure) -> tuple[str, str]:
        """Return what happened and what to do."""
        address = ", ".join(f"{host}:{port}" for host, port in self._url.addresses)
        peer = self._url.socket or address
        match failure.value:
            case ReplyError() as error:
                return problem_of(error), "Correct STATE_URL, or the permissions of its user."
            case CommandFailed() as error:
                return str(error), "Check STATE_URL, and the log of the server."
            case DNSLookupError():
                advice = "Check the name in STATE_URL and the name servers of this machine."
                return f"{peer} does not resolve", advice
            case RefusedError():
                advice = "Check host and port in STATE_URL, and whether the server runs."
                return f"{peer} refuses connections", advice
            case DeadlinePassed():
                advice = "A firewall may drop the packets, or the server hangs."
                return f"no answer from {peer} within {STEP_SECONDS:g} s", advice
        return describe(failure), "Check STATE_URL, the network and firewalls."


class _OneConnection(Factory):
    """Makes the connection of a check."""

    noisy = False

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def buildProtocol(self, _: object) -> RedisConnection:
        return RedisConnection(self._reactor, self, STEP_SECONDS)

    def connection_failed(self, connection: RedisConnection, problem: str) -> None:
        """Do nothing: the command in flight fails."""

    def message(self, payload: bytes) -> None:
        """Do nothing: the messages are those of services."""


def judge_server(info: str) -> _Found:
    """Judge the reply to ``INFO``."""
    lines = [line.partition(":") for line in info.splitlines()]
    fields = {name: value.strip() for name, _, value in lines}
    version = fields.get("redis_version", "")
    server = f"{fields.get('server_name') or 'Redis'} {version or 'of an unknown version'}"
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < LEAST_VERSION:
        return Result.FAILED, server, f"Use version {LEAST_VERSION} or later."
    if fields.get("cluster_enabled") == "1":
        return Result.FAILED, f"{server}, a part of a cluster", "Redis Cluster is not supported."
    policy = fields.get("maxmemory_policy", "")
    if not policy:
        return Result.OK, server, ""
    if fields.get("maxmemory", "0") == "0":
        return Result.WARNING, f"{server}, without maxmemory", MEMORY_ADVICE
    detail = f"{server}, maxmemory-policy {policy}"
    if policy == "noeviction":
        return Result.WARNING, detail, MEMORY_ADVICE
    return Result.OK, detail, ""
