"""Requests that are refused with 400, by what is wrong with them."""

from __future__ import annotations


def head(
    *lines: bytes, line: bytes = b"GET /v1/models HTTP/1.1", host: bytes | None = b"a"
) -> bytes:
    """Return a request head: request line, ``Host`` unless *host* is ``None``, further lines."""
    hosts = [] if host is None else [b"Host: " + host]
    return b"\r\n".join([line, *hosts, *lines, b"", b""])


def upload(*lines: bytes, version: bytes = b"1.1", body: bytes = b"") -> bytes:
    """Return a POST to a path that is not cached, with header lines that frame *body*."""
    return head(*lines, line=b"POST /v1/files HTTP/" + version) + body


CHUNKED = b"Transfer-Encoding: chunked"
CHUNK = b"5\r\nhello\r\n0\r\n\r\n"

MALFORMED = {
    "no Host": head(host=None),
    "two Hosts": head(b"Host: b"),
    "two equal Hosts": head(b"host: a"),
    "an empty Host": head(host=b""),
    "an invalid Host": head(host=b"a b"),
    "a user in Host": head(host=b"user@a"),
    "Content-Length and Transfer-Encoding": upload(b"Content-Length: 5", CHUNKED, body=CHUNK),
    "Transfer-Encoding and Content-Length": upload(CHUNKED, b"Content-Length: 5", body=CHUNK),
    "two Content-Lengths": upload(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "different Content-Lengths": upload(b"Content-Length: 5", b"Content-Length: 6"),
    "a list in Content-Length": upload(b"Content-Length: 5, 5", body=b"hello"),
    "a negative Content-Length": upload(b"Content-Length: -5"),
    "a signed Content-Length": upload(b"Content-Length: +5", body=b"hello"),
    "a hexadecimal Content-Length": upload(b"Content-Length: 0x5", body=b"hello"),
    "an empty Content-Length": upload(b"Content-Length:"),
    "a Content-Length of 5000 digits": upload(b"Content-Length: " + b"9" * 5000),
    "gzip, chunked": upload(b"Transfer-Encoding: gzip, chunked", body=CHUNK),
    "chunked, gzip": upload(b"Transfer-Encoding: chunked, gzip", body=CHUNK),
    "chunked twice": upload(CHUNKED, CHUNKED, body=CHUNK),
    "chunked and identity": upload(CHUNKED, b"Transfer-Encoding: identity", body=CHUNK),
    "identity": upload(b"Transfer-Encoding: identity", body=b"hello"),
    "an unknown coding": upload(b"Transfer-Encoding: xchunked", body=CHUNK),
    "chunked with a parameter": upload(b"Transfer-Encoding: chunked;q=1", body=CHUNK),
    "an empty Transfer-Encoding": upload(b"Transfer-Encoding:"),
    "chunked in HTTP/1.0": upload(CHUNKED, version=b"1.0", body=CHUNK),
    "a folded line": head(b"X-A: b", b" c"),
    "a folded first line": head(host=None).replace(b"\r\n\r\n", b"\r\n Host: a\r\n\r\n"),
    "bare line feeds": head().replace(b"\r\n", b"\n"),
    "a bare line feed after a field": head(b"X-A: b\nX-B: c"),
    "a bare carriage return in a field": head(b"X-A: b\rX-B: c"),
    "a NUL in a field": head(b"X-A: b\x00c"),
    "a NUL in a name": head(b"X-\x00A: b"),
    "a space before the colon": head(b"X-A : b"),
    "a name without a colon": head(b"X-A"),
    "a field without a name": head(b": b"),
    "a space in the target": head(line=b"GET /v1/mo dels HTTP/1.1"),
    "a target that starts with @": head(line=b"GET @v1/models HTTP/1.1"),
    "a target that starts with a letter": head(line=b"GET Xv1/models HTTP/1.1"),
    "an asterisk": head(line=b"GET * HTTP/1.1"),
    "a byte over 0x7f in the target": head(line=b"GET /v1/mod\xe8les HTTP/1.1"),
    "UTF-8 in the target": head(line="GET /v1/modèles HTTP/1.1".encode()),
    "DEL in the target": head(line=b"GET /v1/mod\x7fels HTTP/1.1"),
    "a tab in the target": head(line=b"GET /v1/mod\tels HTTP/1.1"),
    "a dot segment": head(line=b"GET /v1/../stats HTTP/1.1"),
    "a single dot": head(line=b"GET /v1/./models HTTP/1.1"),
    "an encoded dot segment": head(line=b"GET /v1/%2e%2E/stats HTTP/1.1"),
    "a dot segment after an encoded slash": head(line=b"GET /v1/a%2f..%2fb HTTP/1.1"),
    "a fragment": head(line=b"GET /v1/models#x HTTP/1.1"),
    "a URL of another authority": head(line=b"GET http://b/v1/models HTTP/1.1"),
    "a URL with a user": head(line=b"GET http://user@a/v1/models HTTP/1.1"),
    "a URL of another scheme": head(line=b"GET ftp://a/v1/models HTTP/1.1"),
    "an unknown method": head(line=b"BREW /v1/models HTTP/1.1"),
    "a method in lower case": head(line=b"get /v1/models HTTP/1.1"),
    "HTTP/2.0": head(line=b"GET /v1/models HTTP/2.0"),
    "HTTP/3.0": head(line=b"GET /v1/models HTTP/3.0"),
    "HTTP/0.9 with fields": head(line=b"GET /v1/models HTTP/0.9"),
    "HTTP/1.12": head(line=b"GET /v1/models HTTP/1.12"),
    "CONNECT without Host": head(line=b"CONNECT a:443 HTTP/1.1", host=None),
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTPS/1.1": head(line=b"GET /v1/models HTTPS/1.1"),
    "no version": head(line=b"GET /v1/models "),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 9,
    "a TLS ClientHello": bytes.fromhex("16030100a5010000a10303") + b"\x00" * 32,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an unknown expectation": upload(b"Expect: 200-ok", b"Content-Length: 5"),
    "two expectations": upload(b"Expect: 100-continue, x", b"Content-Length: 5"),
}
