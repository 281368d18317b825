"""HTTP/1.1 over llhttp, for both sides of the proxy.

Towards clients:

* :mod:`.server_connection` owns the transport; :mod:`.request_parser` parses what is received;
  :mod:`.connection_deadlines` has the deadlines, :mod:`.connection_limits` the number of
  connections.
* :mod:`.announced_peer` reads the PROXY protocol of connections through a load balancer.
* :mod:`.exchange` is a request and its response: the interface to the proxy. :mod:`.request_head`,
  :mod:`.repeated_head` and :mod:`.request_body` are the parts of the request.
* :mod:`.web_adapter` serves an exchange by a ``twisted.web`` resource.

Towards upstreams:

* :mod:`.client_connection` owns the transport; :mod:`.request_upload` streams a request body.
* :mod:`.response` is the response. :mod:`.connection_pool` keeps connections between requests.

For both: :mod:`.connection_states` and :mod:`.framing`.
"""
