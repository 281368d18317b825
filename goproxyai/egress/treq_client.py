"""treq's ``HTTPClient``, without its changes to requests and responses.

``HTTPClient.request`` would upper-case the method, re-encode the URL, add an ``Accept-Encoding``,
decompress the body, follow redirects, and replay the cookies that one client received in the
requests of the next. A proxy must do none of these, and no argument of treq turns all of them off.
:class:`RelayClient` therefore overrides this one method and hands the bytes that it is given to the
agent. The rest of treq works on it as usual: the verbs (``get``, ``post`` and so on) and the body
readers (``treq.content``, ``treq.collect``, ``treq.json_content``).
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
    """Sends upstream requests.

    Health probes use :meth:`request`. Relayed requests use :attr:`relay`, which is the agent's own
    method and takes a receiver instead of returning a Deferred. They bypass treq, because
    ``HTTPClient.request`` costs about 140 us for each request, and a whole cache miss costs less
    than 60 us (``python -m bench.inside``).

    :ivar route: :meth:`.RelayAgent.route`.
    :ivar relay: :meth:`.RelayAgent.relay`.
    :ivar pool: the agent's connection pool.
    """

    def __init__(self, agent: RelayAgent) -> None:
        super().__init__(agent)
        self._relay_agent = agent
        self.route = agent.route
        self.relay = agent.relay
        self.pool = agent.pool

    def request(  # type: ignore[override]  # treq's other keywords would alter the request
        self,
        method: str | bytes,
        url: str | bytes,
        *,
        headers: Headers | WebHeaders | None = None,
        data: Any = None,
        _stacklevel: int = 2,  # treq's verbs pass it
    ) -> Deferred[Response]:
        """Send *method* to *url* with exactly these *headers* and *data*.

        :param data: bytes, an ``IBodyProducer``, or ``None``.
        """
        if isinstance(method, str):
            method = method.encode("ascii")
        if isinstance(url, str):
            url = url.encode("ascii")
        return self._relay_agent.request(method, url, headers, data)
