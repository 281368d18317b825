"""Connections and requests to upstreams, with or without an egress proxy.

* :mod:`.tls`: verification of upstream certificates.
* :mod:`.resolver`: shared and cached name resolution.
* :mod:`.name_endpoint`: an endpoint that connects to the addresses of a name.
* :mod:`.tunnel_endpoint`: endpoints that connect through a CONNECT or SOCKS 5 tunnel.
* :mod:`.routes`: the endpoint and the request-target form for each origin.
* :mod:`.agent`: an ``IAgent`` with a connection pool and one deadline for connecting.
* :mod:`.treq_client`: treq's ``HTTPClient`` on that agent, without treq's changes to requests.
"""
