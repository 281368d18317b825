"""The header fields that infrastructure adds to requests, with values in the vendors' formats.

In a value, ``#`` stands for a hexadecimal digit and ``^`` for a decimal digit that differ from
request to request.
"""

from __future__ import annotations

import re
from random import Random

Fields = list[tuple[str, str]]

SDK: Fields = [
    ("Accept", "application/json"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Content-Type", "application/json"),
    ("User-Agent", "OpenAI/Python 2.8.1"),
    ("X-Stainless-Lang", "python"),
    ("X-Stainless-Package-Version", "2.8.1"),
    ("X-Stainless-OS", "Linux"),
    ("X-Stainless-Arch", "x64"),
    ("X-Stainless-Runtime", "CPython"),
    ("X-Stainless-Runtime-Version", "3.11.7"),
    ("X-Stainless-Async", "false"),
    ("x-stainless-retry-count", "^"),
    ("x-stainless-read-timeout", "600"),
]
"""What openai-python sends itself."""

_FORWARDED: Fields = [
    ("X-Forwarded-For", "203.0.113.1"),
    ("X-Forwarded-Proto", "https"),
]
_B3: Fields = [
    ("X-B3-TraceId", "################################"),
    ("X-B3-SpanId", "################"),
    ("X-B3-ParentSpanId", "################"),
    ("X-B3-Sampled", "1"),
]
_W3C = ("traceparent", "00-################################-################-01")

INFRASTRUCTURES: dict[str, Fields] = {
    "aws-alb": [
        *_FORWARDED,
        ("X-Forwarded-Port", "443"),
        ("X-Amzn-Trace-Id", "Root=1-########-########################"),
        ("X-Amzn-Tls-Version", "TLSv1.3"),
        ("X-Amzn-Tls-Cipher-Suite", "TLS_AES_128_GCM_SHA256"),
    ],
    "aws-cloudfront": [
        ("X-Forwarded-For", "203.0.113.1"),
        ("Via", "2.0 ################################.cloudfront.net (CloudFront)"),
        ("X-Amz-Cf-Id", "################_################################-####=="),
        ("X-Amzn-Trace-Id", "Root=1-########-########################"),
        ("CloudFront-Viewer-Address", "203.0.113.1^:^^^^^"),
        ("CloudFront-Viewer-Country", "DE"),
        ("CloudFront-Viewer-City", "Hamburg"),
        ("CloudFront-Viewer-ASN", "32^^"),
        ("CloudFront-Viewer-TLS", "TLSv1.3:TLS_AES_128_GCM_SHA256:fullHandshake"),
        ("CloudFront-Viewer-JA3-Fingerprint", "################################"),
        ("CloudFront-Viewer-Header-Order", "host:user-agent:accept:x-stainless-lang:#"),
        ("CloudFront-Is-Desktop-Viewer", "true"),
        ("CloudFront-Is-Mobile-Viewer", "false"),
        ("CloudFront-Forwarded-Proto", "https"),
    ],
    "cloudflare": [
        *_FORWARDED,
        ("CF-Connecting-IP", "203.0.113.1^"),
        ("CF-IPCountry", "DE"),
        ("CF-Ray", "################-HAM"),
        ("CF-Visitor", '{"scheme":"https"}'),
        ("CDN-Loop", "cloudflare; loops=1"),
        ("CF-Worker", "example.com"),
        ("CF-EW-Via", "15"),
        ("True-Client-IP", "203.0.113.1^"),
    ],
    "fastly": [
        *_FORWARDED,
        ("Fastly-Client-IP", "203.0.113.1^"),
        ("Fastly-Client", "1"),
        ("Fastly-SSL", "1"),
        ("Fastly-FF", "!##########!HAM!cache-ham12^^-HAM"),
        ("Fastly-Orig-Accept-Encoding", "gzip, deflate"),
        ("X-Forwarded-Server", "cache-ham12^^-HAM"),
        ("X-Timer", "S17643^^^^^.^^^^^^,VS0"),
        ("X-Varnish", "^^^^^^^^^^"),
        ("CDN-Loop", "Fastly"),
        ("Surrogate-Capability", 'fastly="Surrogate/1.0"'),
    ],
    "akamai": [
        *_FORWARDED,
        ("True-Client-IP", "203.0.113.1^"),
        ("Akamai-Origin-Hop", "2"),
        ("X-Akamai-Edgescape", "georegion=2^^,country_code=DE,city=HAMBURG,lat=53.^^"),
        ("X-Akamai-CONFIG-LOG-DETAIL", "true"),
        ("X-EdgeConnect-MidMile-RTT", "^^"),
        ("X-EdgeConnect-Origin-MEX-Latency", "^^"),
        ("Via", "1.1 v1-akamaitech.net(ghost) (AkamaiGHost), 1.1 akamai.net(ghost)"),
        ("CDN-Loop", "akamai;v=1.0;c=1"),
    ],
    "azure-front-door": [
        *_FORWARDED,
        ("X-Forwarded-Host", "api.example.com"),
        ("X-Azure-ClientIP", "203.0.113.1^"),
        ("X-Azure-SocketIP", "203.0.113.1^"),
        ("X-Azure-Ref", "20261129T18^^^^Z-################################"),
        ("X-Azure-RequestChain", "hops=1"),
        ("X-Azure-FDID", "a0a0a0a0-bbbb-cccc-dddd-e1e1e1e1e1e1"),
        ("X-Azure-JA4-Fingerprint", "t13d1516h2_############_############"),
        ("Via", "HTTP/2.0 Azure"),
    ],
    "azure-app-gateway": [
        ("X-Forwarded-For", "203.0.113.1^:^^^^^"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Port", "443"),
        ("X-Original-Host", "api.example.com"),
        ("X-Original-URL", "/v1/chat/completions"),
        ("X-AppGW-Trace-Id", "################################"),
    ],
    "azure-app-service": [
        *_FORWARDED,
        ("X-ARR-LOG-ID", "########-####-####-####-############"),
        ("X-ARR-SSL", "2048|256|CN=Microsoft Azure RSA TLS Issuing CA 0^|CN=*.azurewebsites.net"),
        ("CLIENT-IP", "203.0.113.1^:^^^^^"),
        ("DISGUISED-HOST", "example.azurewebsites.net"),
        ("X-SITE-DEPLOYMENT-ID", "example"),
        ("WAS-DEFAULT-HOSTNAME", "example.azurewebsites.net"),
        ("X-WAWS-Unencoded-URL", "/v1/chat/completions"),
        ("X-Original-URL", "/v1/chat/completions"),
        ("Max-Forwards", "10"),
    ],
    "gcp-load-balancer": [
        ("X-Forwarded-For", "203.0.113.1^,198.51.100.7"),
        ("X-Forwarded-Proto", "https"),
        ("Via", "1.1 google"),
        ("X-Cloud-Trace-Context", "################################/^^^^^^^^^^^^^^^^"),
        _W3C,
    ],
    "istio": [
        *_FORWARDED,
        ("X-Request-Id", "########-####-4###-8###-############"),
        ("X-Envoy-Attempt-Count", "^"),
        ("X-Envoy-Internal", "true"),
        ("X-Envoy-Expected-Rq-Timeout-Ms", "15^^^"),
        ("X-Envoy-Original-Path", "/v1/chat/completions"),
        ("X-Envoy-Decorator-Operation", "goproxyai.default.svc.cluster.local:8080/*"),
        ("X-Envoy-Peer-Metadata-Id", "sidecar~10.0.0.^^~app-##########.default~cluster.local"),
        ("X-Envoy-Peer-Metadata", "ChQKDkFQUF9DT05UQUlORVJTEgIaAAo" + 30 * "#" * 32),
        ("X-Forwarded-Client-Cert", "By=spiffe://a;Hash=" + "#" * 64 + ";URI=spiffe://b"),
        *_B3,
    ],
    "linkerd": [
        ("l5d-dst-canonical", "goproxyai.default.svc.cluster.local:8080"),
        ("l5d-client-id", "app.default.serviceaccount.identity.linkerd.cluster.local"),
        ("l5d-reqid", "################"),
        ("l5d-ctx-trace", "################################"),
        *_B3,
    ],
    "traefik": [
        *_FORWARDED,
        ("X-Forwarded-Host", "api.example.com"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Server", "traefik-##########"),
        ("X-Forwarded-Prefix", "/openai"),
        ("X-Real-Ip", "203.0.113.1^"),
    ],
    "nginx-ingress": [
        *_FORWARDED,
        ("X-Forwarded-Host", "api.example.com"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Scheme", "https"),
        ("X-Real-IP", "203.0.113.1^"),
        ("X-Request-ID", "################################"),
        ("X-Scheme", "https"),
        ("X-Original-Forwarded-For", "198.51.100.^^"),
    ],
    "haproxy": [
        *_FORWARDED,
        ("X-Unique-ID", "########:####_########:####_########_####:####"),
        ("X-Client-IP", "203.0.113.1^"),
        ("Forwarded", "for=203.0.113.1^^;proto=https"),
    ],
    "kong": [
        *_FORWARDED,
        ("X-Forwarded-Host", "api.example.com"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Path", "/v1/chat/completions"),
        ("X-Forwarded-Prefix", "/"),
        ("X-Real-IP", "203.0.113.1^"),
        ("X-Kong-Request-Id", "################################"),
        ("Via", "1.1 kong/3.9.0"),
        ("X-Correlation-ID", "########-####-4###-8###-############"),
    ],
    "datadog": [
        ("x-datadog-trace-id", "^^^^^^^^^^^^^^^^^^^"),
        ("x-datadog-parent-id", "^^^^^^^^^^^^^^^^^^^"),
        ("x-datadog-sampling-priority", "1"),
        ("x-datadog-origin", "rum"),
        ("x-datadog-tags", "_dd.p.dm=-1,_dd.p.tid=################"),
        _W3C,
        ("tracestate", "dd=p:################;s:1;t.dm:-1;t.tid:################"),
    ],
    "new-relic": [
        ("newrelic", "eyJ2IjpbMCwxXSwiZCI6eyJ0eSI6IkFwcCIsImFjIjoi" + "#" * 200),
        ("X-NewRelic-ID", "VQ4FVFRUGwYCUVJXBQ=="),
        ("X-NewRelic-Transaction", "#" * 88),
        _W3C,
        ("tracestate", "33@nr=0-0-33^^^^^-^^^^^^^-################-################-1-1.^^^^"),
    ],
    "elastic-apm": [
        ("elastic-apm-traceparent", "00-################################-################-01"),
        _W3C,
        ("tracestate", "es=s:0.^"),
    ],
    "sentry": [
        ("sentry-trace", "################################-################-1"),
        (
            "baggage",
            "sentry-trace_id=################################,sentry-sample_rand=0.^^^^^^,"
            "sentry-environment=production,sentry-release=backend%40" + "#" * 40 + ","
            "sentry-public_key=" + "#" * 32 + ",sentry-transaction=%2Fapi%2Fchat%2F%7Bid%7D,"
            "sentry-sample_rate=1.0,sentry-sampled=true",
        ),
    ],
    "w3c": [
        _W3C,
        ("tracestate", "congo=ucfJifl5GOE,rojo=################"),
        ("baggage", "userId=al####,serverNode=DF^^,isProduction=false"),
    ],
    "b3": _B3,
    "b3-single": [("b3", "################################-################-1-################")],
    "jaeger": [
        ("uber-trace-id", "################:################:################:1"),
        ("uberctx-tenant", "t-##"),
        ("jaeger-debug-id", "####"),
        ("jaeger-baggage", "k1=####"),
    ],
    "skywalking": [("sw8", "1-####==-####==-^-####==-####=-####=-####="), ("sw8-correlation", "")],
    "application-insights": [
        ("Request-Id", "|################################.################."),
        ("Request-Context", "appId=cid-v1:########-####-####-####-############"),
        ("Correlation-Context", "k=####"),
        _W3C,
    ],
    "heroku": [
        *_FORWARDED,
        ("X-Forwarded-Port", "443"),
        ("X-Request-Id", "########-####-####-####-############"),
        ("X-Request-Start", "17643^^^^^^^^"),
        ("Via", "1.1 heroku-router"),
        ("Connect-Time", "^"),
        ("Total-Route-Time", "^"),
    ],
    "vercel": [
        *_FORWARDED,
        ("X-Forwarded-Host", "app.example.com"),
        ("X-Real-IP", "203.0.113.1^"),
        ("X-Vercel-Id", "fra1::iad1::#####-1764^^^^^^^^^-############"),
        ("X-Vercel-Forwarded-For", "203.0.113.1^"),
        ("X-Vercel-Proxied-For", "203.0.113.1^"),
        ("X-Vercel-IP-Country", "DE"),
        ("X-Vercel-IP-City", "Hamburg%20^"),
        ("X-Vercel-IP-Latitude", "53.^^"),
        ("X-Vercel-JA4-Digest", "t13d1516h2_############_############"),
        ("X-Vercel-Deployment-Url", "app-##########.vercel.app"),
        ("X-Matched-Path", "/v1/[...path]"),
    ],
    "fly": [
        *_FORWARDED,
        ("Fly-Client-IP", "203.0.113.1^"),
        ("Fly-Forwarded-Port", "443"),
        ("Fly-Region", "ams"),
        ("Fly-Request-Id", "01##########################-ams"),
        ("X-Request-Start", "t=17643^^^^^^^^^^^"),
    ],
    "java-http-client": [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
        ("User-Agent", "Java-http-client/21.0.^"),
    ],
    "curl-http2": [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
        ("User-Agent", "curl/8.^"),
    ],
    "browser": [
        ("DNT", "1"),
        ("Priority", "u=^, i"),
        ("Save-Data", "on"),
        ("Sec-CH-UA", '"Chromium";v="14^", "Not_A Brand";v="24"'),
        ("Sec-CH-UA-Mobile", "?0"),
        ("Sec-CH-UA-Platform", '"Linux"'),
        ("Sec-Fetch-Dest", "empty"),
        ("Sec-Fetch-Mode", "cors"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-GPC", "1"),
        ("Referer", "https://app.example.com/chats/####"),
    ],
    "applications": [
        ("Idempotency-Key", "stainless-python-retry-########-####-####-####-############"),
        ("X-Client-Request-Id", "########-####-####-####-############"),
        ("HTTP-Referer", "https://app.example.com/####"),
        ("X-Title", "App ####"),
    ],
}
"""By the name of the infrastructure."""


def headers_behind(name: str, number: int) -> Fields:
    """Return the header of an SDK's request that has passed *name*.

    :param number: of the request; requests with different numbers have different headers.
    """
    rng = Random(number)

    def digit(match: re.Match[str]) -> str:
        return rng.choice("0123456789abcdef" if match[0] == "#" else "0123456789")

    added = INFRASTRUCTURES[name]
    replaced = {field.lower() for field, _ in added}
    own = [pair for pair in SDK if pair[0].lower() not in replaced]
    return [(field, re.sub("[#^]", digit, value)) for field, value in (*own, *added)]
