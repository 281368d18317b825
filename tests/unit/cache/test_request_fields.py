"""Which requests are looked up, by method, path and header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache.key import CREDENTIAL_FIELDS, KEY_FIELDS
from goproxyai.cache.post_paths import PostPaths
from goproxyai.cache.request_fields import (
    MAX_NEUTRAL_BYTES,
    NEUTRAL_NAMES,
    NEUTRAL_PREFIXES,
    IgnoredFields,
    NamePatterns,
    is_left_out_of_key,
    is_neutral,
    judge_fields,
)
from goproxyai.cache.rules import judge_request
from goproxyai.messages.headers import request_headers_for_upstream

CHAT = b"/v1/chat/completions"
SDK = dict.fromkeys(
    b"host accept-encoding connection accept content-type user-agent x-stainless-lang"
    b" x-stainless-package-version x-stainless-os x-stainless-arch x-stainless-runtime"
    b" x-stainless-runtime-version x-stainless-async x-stainless-retry-count"
    b" x-stainless-read-timeout authorization content-length openai-organization".split(),
    b"x",
)
CONTRACT = (
    b"x-forwarded-for x-forwarded-anything forwarded x-real-ip x-amzn-trace-id cf-ray cf-visitor"
    b" x-b3-traceid traceparent tracestate baggage sentry-trace x-datadog-trace-id newrelic"
    b" x-cloud-trace-context x-envoy-attempt-count x-request-start x-azure-ref l5d-client-id"
    b" x-scheme x-original-host b3 uber-trace-id elastic-apm-traceparent cdn-loop"
    b" x-client-request-id idempotency-key http-referer x-title priority save-data"
    b" sec-ch-ua sec-fetch-mode dnt"
).split()

SERVED = (None, b"")


def bypass(method: bytes, path: bytes, fields: dict[bytes, bytes]) -> tuple[str | None, bytes]:
    """Return why a request may not be served from the cache, and the field that is the reason."""
    judged = judge_request(method, path, fields)
    return judged.reason, judged.field


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        (b"GET", b"/v1/models", None),
        (b"GET", CHAT, None),
        (b"POST", CHAT, None),
        (b"POST", b"/v1/completions", None),
        (b"POST", b"/v1/embeddings", None),
        (b"POST", b"/v1/embeddings/", "path"),
        (b"POST", b"/v1/files", "path"),
        (b"PUT", CHAT, "method"),
        (b"DELETE", b"/v1/files/a", "method"),
        (b"PATCH", CHAT, "method"),
        (b"HEAD", b"/v1/models", "method"),
        (b"OPTIONS", CHAT, "method"),
        (b"get", CHAT, "method"),
    ],
)
def test_gets_and_cacheable_posts_are_looked_up(
    method: bytes, path: bytes, reason: str | None
) -> None:
    assert bypass(method, path, SDK) == (reason, b"")


@pytest.mark.parametrize(
    "name",
    [
        *KEY_FIELDS,
        *CONTRACT,
        *NEUTRAL_NAMES,
        *b"te trailer upgrade keep-alive transfer-encoding proxy-anything date via from referer"
        b" upgrade-insecure-requests sec-fetch-user cache-control pragma expect"
        b" x-cache-ttl x-cache-replay x-stainless-something-new".split(),
    ],
)
def test_key_fields_and_neutral_fields_do_not_bypass(name: bytes) -> None:
    assert bypass(b"GET", b"/v1/models", {**SDK, name: b"x"}) == SERVED


@pytest.mark.parametrize(
    "name",
    b"cookie origin if-none-match if-modified-since if-match x-stainless-poll-helper x-anything"
    b" content-encoding proxy sec x-stainless openai-other x-http-method-override x-forwarded"
    b" sec-websocket-protocol cf x-amzn-oidc-data x-corp-team accept-charset".split(),
)
def test_other_field_bypasses(name: bytes) -> None:
    assert bypass(b"POST", CHAT, {**SDK, name: b"x"}) == ("header", name)


def test_range_request_bypasses() -> None:
    ranged = {b"cookie": b"a", b"range": b"bytes=0-1"}
    assert bypass(b"GET", b"/v1/files/a/content", ranged) == ("range", b"")
    ranged = {b"x-other": b"a", b"if-range": b"x"}
    assert bypass(b"GET", b"/v1/x", ranged) == ("range", b"")


def test_first_of_several_fields_is_the_reason() -> None:
    fields = {b"x-b": b"1", b"x-a": b"1", b"cookie": b"c"}
    judged = judge_fields(fields)
    assert (judged.reason, judged.field) == ("header", b"x-b")


@given(st.binary(min_size=1, max_size=30))
def test_no_key_field_and_no_field_that_bypasses_is_left_out_of_the_key(name: bytes) -> None:
    bypasses = judge_fields({name: b"x"}).reason is not None
    assert bypasses == (name not in KEY_FIELDS and not is_left_out_of_key(name))


def test_tables_are_disjoint_and_in_lower_case() -> None:
    assert not NEUTRAL_NAMES & set(KEY_FIELDS)
    assert not any(name.startswith(NEUTRAL_PREFIXES) for name in CREDENTIAL_FIELDS)
    assert all(name == name.lower() for name in (*NEUTRAL_NAMES, *NEUTRAL_PREFIXES))
    assert not any(is_neutral(name) for name in KEY_FIELDS)


# Fields that Connection names


@pytest.mark.parametrize("name", [b"x-anything", b"cookie", b"http2-settings", b"origin"])
def test_field_that_connection_names_does_not_bypass(name: bytes) -> None:
    fields = {**SDK, name: b"x", b"connection": b"Upgrade, " + name.title()}
    assert bypass(b"POST", CHAT, fields) == SERVED
    assert bypass(b"POST", CHAT, {**fields, b"x-other": b"x"}) == ("header", b"x-other")


# The size of neutral fields


def test_neutral_fields_over_1_kb_together_bypass() -> None:
    half = b"x" * (MAX_NEUTRAL_BYTES // 2)
    fields = {**SDK, b"baggage": half, b"tracestate": half[:-100]}
    assert bypass(b"POST", CHAT, fields) == SERVED
    fields[b"tracestate"] = half + b"x"
    assert bypass(b"POST", CHAT, fields) == ("header-size", b"tracestate")


def test_name_of_a_prefixed_field_counts() -> None:
    fields = {b"cf-" + b"x" * MAX_NEUTRAL_BYTES: b""}
    judged = judge_fields(fields)
    assert (judged.reason, judged.field) == ("header-size", *fields)


def test_ignored_field_counts() -> None:
    ignored = IgnoredFields(NamePatterns.of(["x-team"]), NamePatterns.of(["*"]))
    for name in (b"x-team", b"cookie"):
        value = b"a=" + b"x" * MAX_NEUTRAL_BYTES
        judged = judge_fields({name: value}, ignored)
        assert (judged.reason, judged.field) == ("header-size", name)


@pytest.mark.parametrize(
    "name",
    b"x-forwarded-for x-forwarded-client-cert forwarded x-envoy-peer-metadata cf-connecting-ip"
    b" cloudfront-viewer-header-order x-vercel-ip-city proxy-authorization authorization"
    b" accept-language host".split(),
)
def test_field_of_the_key_or_not_sent_upstream_does_not_count(name: bytes) -> None:
    assert judge_fields({name: b"x" * 2 * MAX_NEUTRAL_BYTES}).reason is None
    if name not in KEY_FIELDS:
        assert request_headers_for_upstream([(name.title(), b"x")], {name: b"x"}) == []


# What the operator ignores


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        (b"x-team", True),
        (b"x-team-a", False),
        (b"x-corp-", True),
        (b"x-corp-user", True),
        (b"x-corporation", False),
        (b"origin", False),
    ],
)
def test_ignored_header_does_not_bypass(name: bytes, ignored: bool) -> None:
    settings = IgnoredFields(NamePatterns.of(["x-team", "x-corp-*"]))
    judged = judge_fields({**SDK, name: b"x"}, settings)
    assert (judged.reason, judged.field) == ((None, b"") if ignored else ("header", name))


@pytest.mark.parametrize("name", [b"range", b"if-range", b"x-stainless-poll-helper", b"cookie"])
def test_prefix_does_not_ignore_what_always_bypasses(name: bytes) -> None:
    everything = IgnoredFields(NamePatterns.of(["*"]))
    assert judge_fields({name: b"x"}, everything).reason is not None


@pytest.mark.parametrize(
    ("value", "ignored"),
    [
        (b"AWSALB=abc", True),
        (b"AWSALB=abc; incap_ses_1_2=x=y==", True),
        (b"AWSALB=;incap_ses_", False),
        (b"AWSALB=abc; session=1", False),
        (b"awsalb=abc", False),
        (b"AWSALB", False),
        (b"AWSALB=abc, session=1", False),
        (b"=AWSALB", False),
        (b"AWSALB=1;", True),
    ],
)
def test_cookies_bypass_unless_all_are_ignored(value: bytes, ignored: bool) -> None:
    settings = IgnoredFields(cookies=NamePatterns.of(["AWSALB", "incap_ses_*"]))
    judged = judge_fields({b"cookie": value}, settings)
    assert (judged.reason, judged.field) == ((None, b"") if ignored else ("header", b"cookie"))


# CACHE_PATHS


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v1/responses", b"/v1/responses"),
        (b"/v1/chat/completions", b"/v1/chat/completions"),
        (b"/v1/x/responses", None),
        (b"/v1/responses/", None),
        (b"/v1/responses/a", None),
        (b"/v1/moderations", None),
        (b"/openai/v1/responses", b"/v1/responses"),
        (b"/openai/deployments/gpt-4o/chat/completions", b"/v1/chat/completions"),
        (b"/openai/deployments/gpt-4o/completions", b"/v1/completions"),
        (b"/openai/embeddings", b"/v1/embeddings"),
        (b"/openai/xembeddings", None),
        (b"/openai/embeddings/", None),
        (b"/v1/gateway/a/embeddings", b"/v1/embeddings"),
        (b"/other/embeddings", None),
        (b"embeddings", None),
    ],
)
def test_cached_post_is_found_under_each_prefix(path: bytes, expected: bytes | None) -> None:
    paths = PostPaths(
        ("chat/completions", "completions", "embeddings", "responses"),
        ("/v1/", "/openai/", "/v1/gateway/"),
    )
    assert paths.standard_path(path) == expected


def test_longest_relayed_prefix_decides() -> None:
    paths = PostPaths(("chat/completions", "completions"), ("/v1/", "/v1/chat/"))
    assert paths.standard_path(b"/v1/chat/completions") == b"/v1/completions"
    assert paths.standard_path(b"/v1/completions") == b"/v1/completions"


def test_longest_name_at_the_end_of_a_path_decides() -> None:
    paths = PostPaths(("completions", "chat/completions"), ("/openai/",))
    assert paths.standard_path(b"/openai/a/chat/completions") == b"/v1/chat/completions"
