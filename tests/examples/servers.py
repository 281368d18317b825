"""The servers of the examples: ``python -m tests.examples.servers``.

A made-up OpenAI API and an egress proxy, on fixed ports of a network namespace of their own.
"""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import react
from twisted.web.server import Request

from goproxyai.demo.answers import Answer
from goproxyai.demo.api import LOOPBACK, MadeUpAPI
from tests.support.proxy import FakeProxy

API_PORT = 18000
PROXY_PORT = 18001

DEPLOYMENTS = b"/openai/deployments/gpt-6-luna/"


class ExampleAPI(MadeUpAPI):
    """The API of the demo, under Azure's paths as well."""

    def _choose(self, request: Request) -> Answer:
        if request.path.startswith(DEPLOYMENTS):
            request.path = b"/v1/" + request.path.removeprefix(DEPLOYMENTS)
        return super()._choose(request)


async def serve(reactor: Any) -> None:
    api = ExampleAPI(reactor, Random(1))
    api.port = API_PORT
    api.listen()
    proxy = FakeProxy(reactor)
    await proxy.listen(TCP4ServerEndpoint(reactor, PROXY_PORT, interface=LOOPBACK))
    await Deferred()


if __name__ == "__main__":
    react(lambda reactor: ensureDeferred(serve(reactor)))
