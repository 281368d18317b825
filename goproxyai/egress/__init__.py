"""The way out: TLS, the egress proxy, the agent, and treq's client over it.

* :mod:`.tls`: what makes an upstream's certificate a good one.
* :mod:`.connect_endpoint`: an endpoint that reaches its target through an HTTP proxy's CONNECT.
* :mod:`.routes`: which endpoint and which form of target lead to an origin.
* :mod:`.agent`: an ``IAgent`` over the pool: connect, send, one deadline over all of connecting.
* :mod:`.treq_client`: treq's ``HTTPClient``, made to pass on what it is given.
"""
