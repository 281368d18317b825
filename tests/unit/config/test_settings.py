"""Settings from texts: defaults, valid and invalid values, secrets."""

from __future__ import annotations

from base64 import b64decode

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.config.parsers import MEGABYTE
from goproxyai.config.settings import Settings
from goproxyai.config.urls import ProxyURL, UpstreamURL
from goproxyai.config.variable import SettingError
from goproxyai.config.variables import VARIABLES
from goproxyai.limits.addresses import Networks, TrustedProxies

DEFAULTS = Settings.from_texts({})
NAMES = [variable.name for variable in VARIABLES]


def with_text(name: str, text: str) -> object:
    """Return the setting of variable *name* for *text*."""
    return getattr(Settings.from_texts({name: text}), name.lower())


def error_line_or_empty(texts: dict[str, str]) -> str:
    try:
        Settings.from_texts(texts)
    except SettingError as error:
        return str(error)
    return ""


def error_line(name: str, text: str) -> str:
    with pytest.raises(SettingError) as caught:
        Settings.from_texts({name: text})
    assert caught.value.__context__ is None
    return str(caught.value)


def test_defaults() -> None:
    expected = Settings(
        config=None,
        listen=("tcp46:8080:backlog=1024",),
        admin_listen=(),
        tls_client_ca=None,
        openai_api_url=(UpstreamURL("https", "api.openai.com", 443),),
        relay_paths=("/v1/",),
        proxy_url=None,
        no_proxy=(),
        rate_limit=60,
        cache_ttl=300.0,
        cache_max_ttl=86_400.0,
        cache_error_ttl=10.0,
        cache_paths=("chat/completions", "completions", "embeddings"),
        cache_ignore_headers=(),
        cache_ignore_cookies=(),
        cache_stale=0.0,
        cache_shared=(),
        coalesce="deterministic",
        cache_snapshot=None,
        cache_snapshot_key=None,
        request_timeout=30.0,
        generation_timeout=600.0,
        connect_timeout=10.0,
        idle_timeout=300.0,
        keepalive_timeout=75.0,
        upgrades="websocket",
        tunnel_idle_timeout=3600.0,
        drain_delay=0.0,
        drain_timeout=30.0,
        retry_status=frozenset(),
        breaker=0.5,
        health_probe=None,
        max_cache_size=100 * MEGABYTE,
        max_request_memory=256 * MEGABYTE,
        max_body_size=512 * MEGABYTE,
        max_connections=12_000,
        max_connections_per_client=0,
        workers=1,
        state_url=None,
        state_secret=None,
        state_prefix="goproxyai:",
        state_strict=False,
        trusted_proxies=TrustedProxies.parse("127.0.0.0/8 ::1"),
        admin_allow=Networks.parse("127.0.0.0/8 ::1"),
        admin_hosts=frozenset(),
        admin_token=None,
        log_format="",
        log_level="info",
        log_sample=1.0,
        log_slow=10.0,
        prices=None,
        tracing="off",
    )
    assert expected == DEFAULTS


def test_each_variable_has_a_setting() -> None:
    fields = {field.name for field in attrs.fields(Settings)}
    assert {name.lower() for name in NAMES} - {"port"} == fields
    assert len(set(NAMES)) == len(NAMES)


def test_option_name_is_derived_from_variable_name() -> None:
    options = {variable.name: variable.option for variable in VARIABLES}
    assert options["OPENAI_API_URL"] == "openai-api-url"
    assert options["PORT"] == "port"


def test_help_is_one_line_of_sentences() -> None:
    for variable in VARIABLES:
        assert variable.help.endswith(".")
        assert variable.expected
        assert "\n" not in variable.help + variable.expected + variable.default


@pytest.mark.parametrize("name", NAMES)
def test_explicit_default_equals_default(name: str) -> None:
    default = next(variable.default for variable in VARIABLES if variable.name == name)
    changed = {"generation_timeout": 30.0} if name == "REQUEST_TIMEOUT" else {}
    expected = attrs.evolve(DEFAULTS, **changed)
    assert Settings.from_texts({name: default}) == expected
    assert Settings.from_texts({name: f" {default}\n"}) == expected


def test_unknown_names_are_ignored() -> None:
    assert Settings.from_texts({"PATH": "/bin", "port": "x", "HOME": ""}) == DEFAULTS


def test_empty_value_has_default_or_no_value() -> None:
    empty = Settings.from_texts(dict.fromkeys(NAMES, " "))
    assert empty == attrs.evolve(DEFAULTS, trusted_proxies=TrustedProxies(), admin_allow=Networks())


@pytest.mark.parametrize(
    ("texts", "request_timeout", "generation_timeout"),
    [
        ({}, 30.0, 600.0),
        ({"REQUEST_TIMEOUT": "90s"}, 90.0, 90.0),
        ({"REQUEST_TIMEOUT": "90s", "GENERATION_TIMEOUT": " "}, 90.0, 90.0),
        ({"REQUEST_TIMEOUT": "", "GENERATION_TIMEOUT": ""}, 30.0, 600.0),
        ({"GENERATION_TIMEOUT": "5m"}, 30.0, 300.0),
        ({"REQUEST_TIMEOUT": "90s", "GENERATION_TIMEOUT": "5m"}, 90.0, 300.0),
    ],
)
def test_request_timeout_applies_to_posts_where_only_it_is_set(
    texts: dict[str, str], request_timeout: float, generation_timeout: float
) -> None:
    settings = Settings.from_texts(texts)
    assert settings.request_timeout == request_timeout
    assert settings.generation_timeout == generation_timeout


def test_port_is_used_in_listen() -> None:
    assert Settings.from_texts({"PORT": "0"}).listen == ("tcp46:0:backlog=1024",)
    assert Settings.from_texts({"PORT": "81", "LISTEN": ""}).listen == ("tcp46:81:backlog=1024",)


def test_listen_is_a_list_of_endpoints_with_port() -> None:
    texts = {"PORT": "81", "LISTEN": "unix:/run/x.sock  tcp6:$PORT:interface=\\:\\:"}
    assert Settings.from_texts(texts).listen == ("unix:/run/x.sock", "tcp6:81:interface=\\:\\:")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("RELAY_PATHS", "/v1/, /openai/deployments", ("/v1/", "/openai/deployments/")),
        ("RELAY_PATHS", "/v1//", ("/v1/",)),
        ("RATE_LIMIT", "0", 0),
        ("RATE_LIMIT", "1000", 1000),
        ("CACHE_TTL", "0", 0.0),
        ("CACHE_TTL", "1h30m", 5400.0),
        ("REQUEST_TIMEOUT", "250ms", 0.25),
        ("DRAIN_TIMEOUT", "0", 0.0),
        ("MAX_CACHE_SIZE", "0", 0),
        ("MAX_CACHE_SIZE", "0.5", MEGABYTE // 2),
        ("MAX_BODY_SIZE", "1.25", MEGABYTE * 5 // 4),
        ("NO_PROXY", "a.example, .b.example", ("a.example", ".b.example")),
        ("NO_PROXY", "a.example,a..b,10.0.0.0/99", ("a.example",)),
        ("TRUSTED_PROXIES", "10.0.0.0/8, ::1", TrustedProxies.parse("10.0.0.0/8 ::1/128")),
        ("TRUSTED_PROXIES", "unix", TrustedProxies(unix=True)),
        ("TRUSTED_PROXIES", "10.0.0.5 unix", TrustedProxies(Networks.parse("10.0.0.5"), True)),
        (
            "ADMIN_HOSTS",
            "Proxy.Example. a_b--c,10.0.0.5",
            frozenset(("proxy.example", "a_b--c", "10.0.0.5")),
        ),
        ("ADMIN_LISTEN", "tcp:8081 unix:/run/a.sock", ("tcp:8081", "unix:/run/a.sock")),
        ("ADMIN_ALLOW", "", Networks()),
        ("ADMIN_TOKEN", "s3cret!", "s3cret!"),
        ("CACHE_MAX_TTL", "0", 0.0),
        ("CACHE_STALE", "1h", 3600.0),
        (
            "CACHE_SHARED",
            "models, chat/completions embeddings,",
            (
                "models",
                "chat/completions",
                "embeddings",
            ),
        ),
        ("CACHE_SHARED", "models/gpt-4.1 v1x", ("models/gpt-4.1", "v1x")),
        ("COALESCE", "ALL", "all"),
        ("RETRY_STATUS", "502, 503", frozenset((502, 503))),
        ("BREAKER", "0", 0.0),
        ("BREAKER", "1", 1.0),
        ("HEALTH_PROBE", "/v1/models?x=1", b"/v1/models?x=1"),
        ("CACHE_SNAPSHOT_KEY", "sixteen-or-more!", "sixteen-or-more!"),
        ("LOG_FORMAT", "TEXT", "text"),
        ("LOG_LEVEL", "Debug", "debug"),
    ],
)
def test_valid_text_is_parsed(name: str, text: str, value: object) -> None:
    assert with_text(name, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "http"),
        ("PORT", "\u0661"),
        ("LISTEN", "8080"),
        ("LISTEN", "tcp:80 :80"),
        ("RELAY_PATHS", "/"),
        ("RELAY_PATHS", "v1/"),
        ("RELAY_PATHS", "//v1/"),
        ("RELAY_PATHS", "/v1/../x/"),
        ("RELAY_PATHS", "/v1%2f/"),
        ("RELAY_PATHS", "/v1/?x"),
        ("RELAY_PATHS", "/v1/ /stats/"),
        ("RELAY_PATHS", "/health"),
        ("RATE_LIMIT", "-1"),
        ("RATE_LIMIT", "1.5"),
        ("RATE_LIMIT", "many"),
        ("RATE_LIMIT", "9" * 5000),
        ("CACHE_TTL", "300"),
        ("CACHE_TTL", "-5m"),
        ("REQUEST_TIMEOUT", "0"),
        ("GENERATION_TIMEOUT", "0"),
        ("KEEPALIVE_TIMEOUT", "0s"),
        ("CONNECT_TIMEOUT", "0s"),
        ("IDLE_TIMEOUT", "-1s"),
        ("UPGRADES", "h2c"),
        ("TUNNEL_IDLE_TIMEOUT", "0"),
        ("DRAIN_DELAY", "-1s"),
        ("DRAIN_TIMEOUT", "soon"),
        ("MAX_CACHE_SIZE", "100MB"),
        ("MAX_CACHE_SIZE", "1e3"),
        ("MAX_CACHE_SIZE", "nan"),
        ("MAX_BODY_SIZE", "0"),
        ("MAX_BODY_SIZE", "0.0000000001"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("ADMIN_ALLOW", "localhost"),
        ("ADMIN_ALLOW", "unix"),
        ("ADMIN_HOSTS", "proxy.example:8080"),
        ("ADMIN_HOSTS", "*"),
        ("ADMIN_HOSTS", "http://proxy.example"),
        ("ADMIN_LISTEN", "8081"),
        ("CACHE_STALE", "-1s"),
        ("CACHE_SHARED", "models/"),
        ("CACHE_SHARED", "v1/models"),
        ("CACHE_SHARED", "models v1"),
        ("CACHE_SHARED", "/models"),
        ("CACHE_SHARED", "models?x"),
        ("COALESCE", "yes"),
        ("RETRY_STATUS", "200"),
        ("RETRY_STATUS", "5xx"),
        ("BREAKER", "1.1"),
        ("BREAKER", "-1"),
        ("BREAKER", "half"),
        ("HEALTH_PROBE", "v1/models"),
        ("HEALTH_PROBE", "/v1/../x"),
        ("CACHE_SNAPSHOT", "a\x00b"),
        ("CACHE_SNAPSHOT_KEY", "short"),
        ("CACHE_SNAPSHOT_KEY", "sixteen or more!"),
        ("ADMIN_TOKEN", "two words"),
        ("ADMIN_TOKEN", "caf\u00e9"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_invalid_text_raises_one_line_with_expectation(name: str, text: str) -> None:
    line = error_line(name, text)
    assert line.startswith(f"{name} is '")
    assert ", expected " in line
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 300
    if name not in ("ADMIN_TOKEN", "CACHE_SNAPSHOT_KEY"):
        assert ascii(text)[1:40].rstrip("'") in line


def test_snapshot_requires_key() -> None:
    key = "sixteen-or-more!"
    kept = Settings.from_texts({"CACHE_SNAPSHOT": "/var/x y", "CACHE_SNAPSHOT_KEY": key})
    assert (kept.cache_snapshot, kept.cache_snapshot_key) == ("/var/x y", key)
    assert error_line("CACHE_SNAPSHOT", "/var/x").startswith(
        "CACHE_SNAPSHOT_KEY is not set, expect"
    )


def test_snapshot_is_not_for_workers_that_share_a_redis_server() -> None:
    secret = "sixteen-or-more!"
    texts = {
        "CACHE_SNAPSHOT": "/var/x",
        "CACHE_SNAPSHOT_KEY": secret,
        "STATE_URL": "redis://state.test",
        "STATE_SECRET": secret,
    }
    assert Settings.from_texts(texts).cache_snapshot == "/var/x"
    for workers in ("2", "auto"):
        with pytest.raises(SettingError, match=r"CACHE_SNAPSHOT is '/var/x', expected WORKERS=1"):
            Settings.from_texts({**texts, "WORKERS": workers})


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("RATE_LIMIT", 1_000_000_000),
        ("MAX_CONNECTIONS", 1_000_000),
        ("MAX_CONNECTIONS_PER_CLIENT", 1_000_000),
    ],
)
def test_error_line_of_a_number_that_is_too_large_says_the_largest(name: str, largest: int) -> None:
    assert error_line_or_empty({name: str(largest)}) == ""
    assert f" {largest}" in error_line(name, str(largest + 1)).partition(", expected ")[2]


def test_error_line() -> None:
    assert error_line("RATE_LIMIT", "many") == (
        "RATE_LIMIT is 'many', expected a whole number of requests a minute up to "
        "1000000000, 0 for no limit"
    )


@given(st.sampled_from(NAMES), st.text())
def test_any_text_is_parsed_or_raises_one_printable_line(name: str, text: str) -> None:
    line = error_line_or_empty({name: text})
    assert line.isascii()
    assert not line or line.isprintable()


@pytest.mark.parametrize(
    ("text", "origin", "host", "base_path"),
    [
        ("https://api.openai.com", b"https://api.openai.com", "api.openai.com", b""),
        ("https://api.openai.com/", b"https://api.openai.com", "api.openai.com", b""),
        ("HTTPS://API.OpenAI.com:443", b"https://api.openai.com", "api.openai.com", b""),
        ("http://localhost:80/base/", b"http://localhost", "localhost", b"/base"),
        ("http://localhost:443", b"http://localhost:443", "localhost", b""),
        ("http://my_host:8000/a/b", b"http://my_host:8000", "my_host", b"/a/b"),
        ("http://a1--b.test", b"http://a1--b.test", "a1--b.test", b""),
        (
            "http://svc.ns.svc.cluster.local.:8000",
            b"http://svc.ns.svc.cluster.local.:8000",
            "svc.ns.svc.cluster.local.",
            b"",
        ),
        ("https://[2001:DB8::1]/v0", b"https://[2001:db8::1]", "2001:db8::1", b"/v0"),
        ("http://[::1]:8080", b"http://[::1]:8080", "::1", b""),
        ("http://192.0.2.1:1", b"http://192.0.2.1:1", "192.0.2.1", b""),
    ],
)
def test_upstream_url_has_origin_and_base_path(
    text: str, origin: bytes, host: str, base_path: bytes
) -> None:
    (url,) = Settings.from_texts({"OPENAI_API_URL": text}).openai_api_url
    assert (url.origin, url.host, url.base_path) == (origin, host, base_path)
    assert url.authority == origin.partition(b"://")[2]
    assert url.text == (origin + base_path).decode()
    again = Settings.from_texts({"OPENAI_API_URL": url.text})
    assert again.openai_api_url == (url,)
    assert again.openai_url == url.text


@pytest.mark.parametrize(
    ("text", "base_path"),
    [
        ("https://api.openai.com/v1", b""),
        ("https://api.openai.com/v1/", b""),
        ("https://gateway.example/openai/v1", b"/openai"),
        ("https://gateway.example//v1//", b""),
        ("https://gateway.example/v1/v1", b"/v1"),
        ("https://gateway.example/v1/team", b"/v1/team"),
        ("https://gateway.example/xv1", b"/xv1"),
        ("https://gateway.example/V1", b"/V1"),
        ("https://v1", b""),
    ],
)
def test_version_at_the_end_of_a_base_path_is_dropped(text: str, base_path: bytes) -> None:
    (url,) = Settings.from_texts({"OPENAI_API_URL": text}).openai_api_url
    assert url.base_path == base_path


def test_several_upstream_urls_keep_their_order() -> None:
    text = "https://a.example/x, http://b.example  https://c.example"
    settings = Settings.from_texts({"OPENAI_API_URL": text})
    assert [url.host for url in settings.openai_api_url] == ["a.example", "b.example", "c.example"]
    assert settings.openai_url == "https://a.example/x, http://b.example, https://c.example"
    for wrong in ("https://a.example,https://a.example", "https://a.example b.example", ", "):
        assert error_line("OPENAI_API_URL", wrong).startswith("OPENAI_API_URL is '")


@pytest.mark.parametrize(
    "text",
    [
        "api.openai.com",
        "ftp://api.openai.com",
        "https://",
        "https:///v1",
        "https:/api.openai.com",
        "https://api.openai.com?x",
        "https://api.openai.com/v1?x=1",
        "https://api.openai.com/v1#x",
        "https://api.openai.com/../v1",
        "https://api.openai.com/a/%2e%2E",
        "https://user:pass@api.openai.com",
        "https://@api.openai.com",
        "https://api.openai.com\\@evil.example",
        "https://api.openai.com/@evil",
        "https://api.openai.com:0",
        "https://api.openai.com:65536",
        "https://api.openai.com:",
        "https://api.openai.com:https",
        "https://api..openai.com",
        "https://-api.openai.com",
        "https://api.openai.com/a b",
        "https://api.openai.com/a\tb",
        "https://api.op\nenai.com",
        "https://b\u00fccher.example",
        "https://\u212aelvin.example",
        "https://192.0.2.256",
        "https://1.2.3",
        "https://[::1",
        "https://[::g]",
        "https://[fe80::1%25eth0]",
        "https://::1",
        "https://" + "a" * 64 + ".example",
        "https://example.com/" + "a" * 3000,
    ],
)
def test_invalid_upstream_url_is_refused(text: str) -> None:
    assert error_line("OPENAI_API_URL", text).startswith("OPENAI_API_URL is '")


@pytest.mark.parametrize(
    ("text", "url", "shown"),
    [
        ("http://proxy:8080", ProxyURL("http", "proxy", 8080), "http://proxy:8080"),
        ("http://proxy:8080/", ProxyURL("http", "proxy", 8080), "http://proxy:8080"),
        ("http://Proxy", ProxyURL("http", "proxy", 80), "http://proxy:80"),
        ("https://proxy", ProxyURL("https", "proxy", 443), "https://proxy:443"),
        ("socks5://proxy", ProxyURL("socks5", "proxy", 1080), "socks5://proxy:1080"),
        (
            "SOCKS5H://u%3As:p@proxy:9",
            ProxyURL("socks5h", "proxy", 9, "u:s", "p"),
            "socks5h://***:***@proxy:9",
        ),
        ("http://[::1]:3128", ProxyURL("http", "::1", 3128), "http://[::1]:3128"),
        ("http://@proxy:1", ProxyURL("http", "proxy", 1), "http://proxy:1"),
        (
            "http://us%65r:p%40s%3As@proxy:8080",
            ProxyURL("http", "proxy", 8080, "user", "p@s:s"),
            "http://***:***@proxy:8080",
        ),
        (
            "http://u:p@ss:word@proxy:8080",
            ProxyURL("http", "proxy", 8080, "u", "p@ss:word"),
            "http://***:***@proxy:8080",
        ),
        (
            "http://user@proxy:8080",
            ProxyURL("http", "proxy", 8080, "user"),
            "http://***:***@proxy:8080",
        ),
    ],
)
def test_proxy_url_has_address_and_optional_credentials(
    text: str, url: ProxyURL, shown: str
) -> None:
    parsed = Settings.from_texts({"PROXY_URL": text}).proxy_url
    assert parsed == url
    assert url.masked == shown


def test_proxy_credentials_are_encoded_for_socks() -> None:
    assert ProxyURL("socks5", "proxy", 80).socks_credentials() is None
    assert ProxyURL("socks5", "proxy", 80, "u", "p").socks_credentials() == (b"u", b"p")
    assert ProxyURL("socks5", "proxy", 80, "ü").socks_credentials() == (b"\xc3\xbc", b"")


def test_proxy_credentials_are_encoded_for_basic() -> None:
    assert ProxyURL("http", "proxy", 80).basic_credentials() is None
    assert ProxyURL("http", "proxy", 80, "u", "p").basic_credentials() == b"Basic dTpw"
    assert ProxyURL("http", "proxy", 80, "u").basic_credentials() == b"Basic dTo="


@pytest.mark.parametrize(
    "text",
    [
        "proxy:8080",
        "socks4://proxy:1080",
        "socks5h://proxy:0",
        f"socks5://{'u' * 256}:p@proxy",
        f"socks5://u:{'p' * 256}@proxy",
        "socks5://user:pass%00@proxy:8080",
        "http://proxy:8080/path",
        "http://proxy:8080?x",
        "http://proxy:8080#x",
        "http://user:pa/ss@proxy:8080",
        "http://us%3Aer:pass@proxy:8080",
        "http://user:pass%0d%0a@proxy:8080",
        "http://user:pass%ff@proxy:8080",
        "http://user:pass@",
        "http://user:pass@proxy:x",
    ],
)
def test_invalid_proxy_url_is_refused(text: str) -> None:
    line = error_line("PROXY_URL", text)
    assert "pass" not in line.partition(", expected")[0]


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_percent_encoded_credentials_are_decoded(username: str, password: str) -> None:
    def encoded(text: str) -> str:
        return "".join(f"%{byte:02x}" for byte in text.encode())

    url = f"http://{encoded(username)}:{encoded(password)}@proxy:8080"
    try:
        proxy = Settings.from_texts({"PROXY_URL": url}).proxy_url
    except SettingError:
        assert ":" in username or any(
            ord(one) < 32 or ord(one) == 127 for one in username + password
        )
        return
    assert proxy is not None
    credentials = proxy.basic_credentials()
    assert credentials is not None
    assert b64decode(credentials.removeprefix(b"Basic ")).decode() == f"{username}:{password}"


def test_repr_contains_no_secret() -> None:
    texts = {
        "PROXY_URL": "http://someone:hunter2@proxy:1",
        "ADMIN_TOKEN": "swordfish",
        "CACHE_SNAPSHOT_KEY": "open-sesame-open",
    }
    shown = repr(Settings.from_texts(texts))
    for secret in ("someone", "hunter2", "swordfish", "sesame"):
        assert secret not in shown


def test_very_long_url_is_masked_whole() -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_texts({"PROXY_URL": "http://proxy" + "/%2e" * 100_000 + ":"})
    assert str(caught.value).startswith("PROXY_URL is '***', expected ")


SECRETS = st.text("Zq0 @:/?#%\\[]\u00e9\n", min_size=3, max_size=20).map(lambda text: f"Zx{text}xZ")


@given(SECRETS, st.sampled_from(["PROXY_URL", "OPENAI_API_URL"]))
def test_error_line_contains_no_secret(secret: str, name: str) -> None:
    texts = [
        f"http://user:{secret}@proxy:99999",
        f"ftp://user:{secret}@proxy:80",
        f"user:{secret}@proxy",
        f"{secret}@proxy",
        f"http://host/?key={secret}",
        f"http://user:{secret}@",
    ]
    if "@" not in secret:  # else what follows it reads as the host
        texts.append(f"http://user:{secret}")
    for text in texts:
        line = error_line_or_empty({name: text})
        assert "Zx" not in line
        assert "xZ" not in line


def test_error_line_contains_no_token() -> None:
    assert "swordfish" not in error_line("ADMIN_TOKEN", "sword fish swordfish")
    assert "abcdefgh" not in error_line("RATE_LIMIT", "sk-abcdefgh")
