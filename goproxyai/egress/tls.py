"""TLS to upstreams and to egress proxies.

Certificates are verified with service-identity against the roots that OpenSSL finds: the system's,
or those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``. Connections use TLS 1.2 or later, SNI, and ALPN
``http/1.1``.
"""

from __future__ import annotations

from functools import lru_cache

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import optionsForClientTLS, platformTrust


@lru_cache(maxsize=64)
def tls_to(host: str) -> IOpenSSLClientConnectionCreator:
    """Return client TLS for *host*, a name or an address.

    Cached, because OpenSSL reads the root certificates for each new context.

    :raises ValueError: if *host* is not a valid server name.
    """
    return optionsForClientTLS(host, trustRoot=platformTrust(), acceptableProtocols=[b"http/1.1"])
