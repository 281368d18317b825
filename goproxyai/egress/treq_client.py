"""treq's client, made to pass on what it is given.

treq's own ``request`` upper-cases methods, re-encodes URLs, decodes bodies, keeps one cookie jar
for everybody and follows redirects: right for a client, wrong for a relay. This one overrides that
one method; the verbs (``get``, ``post``, …) and treq's readers of bodies (``treq.content``,
``treq.collect``, ``treq.json_content``) work over it as ever.
"""

from __future__ import annotations

from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers as WebHeaders

from goproxyai.egress.agent import RelayAgent
from goproxyai.http11.response import Response
from goproxyai.messages.headers import Headers


class RelayClient(HTTPClient):
    """Issues the upstream requests; nothing of them is changed."""

    def __init__(self, agent: RelayAgent) -> None:
        super().__init__(agent)
        self._relay_agent = agent
        # For those who bring a receiver, and need no Deferred.
        self.route = agent.route
        self.relay = agent.relay
        self.pool = agent.pool

    def request(  # type: ignore[override]  # treq's keywords would all be ways to alter a request
        self,
        method: str | bytes,
        url: str | bytes,
        *,
        headers: Headers | WebHeaders | None = None,
        data: Any = None,
        _stacklevel: int = 2,  # treq's verbs say where its warnings should point
    ) -> Deferred[Response]:
        """Send *method* to *url* with exactly *headers* and *data*.

        :param data: bytes, an ``IBodyProducer``, or ``None``.
        """
        if isinstance(method, str):
            method = method.encode("ascii")
        if isinstance(url, str):
            url = url.encode("ascii")
        return self._relay_agent.request(method, url, headers, data)
