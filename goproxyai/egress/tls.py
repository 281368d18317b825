"""What makes an upstream's certificate a good one.

Verified with service-identity against the roots that OpenSSL finds: the system's, or those of
``SSL_CERT_FILE`` and ``SSL_CERT_DIR``. TLS 1.2 at least, SNI, ALPN ``http/1.1``.
"""

from __future__ import annotations

from functools import lru_cache

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import optionsForClientTLS, platformTrust


@lru_cache(maxsize=64)
def tls_to(host: str) -> IOpenSSLClientConnectionCreator:
    """Client TLS for *host*, a name or an address; contexts are dear, so they are kept.

    :raises ValueError: where *host* cannot be a server's name.
    """
    return optionsForClientTLS(host, trustRoot=platformTrust(), acceptableProtocols=[b"http/1.1"])
