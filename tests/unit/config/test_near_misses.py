"""Environment variables that were probably meant to be settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.config.near_misses import ALIASES, MIN_LETTERS, near_misses
from goproxyai.config.variables import VARIABLES

NAMES = frozenset(variable.name for variable in VARIABLES)
LONG_NAMES = sorted(name for name in NAMES if len(name.replace("_", "")) >= MIN_LETTERS)


def meant(name: str, value: str = "1", **others: str) -> str | None:
    """Return the setting that variable *name* is reported with."""
    return dict(near_misses({name: value, **others}, NAMES)).get(name)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("RATELIMIT", "RATE_LIMIT"),
        ("rate_limit", "RATE_LIMIT"),
        ("RateLimit", "RATE_LIMIT"),
        ("RATE_LIMITS", "RATE_LIMIT"),
        ("RATE_LIMT", "RATE_LIMIT"),
        ("RATE_LMIIT", "RATE_LIMIT"),
        ("RATE__LIMIT", "RATE_LIMIT"),
        ("CACHETTL", "CACHE_TTL"),
        ("TTL_CACHE", "CACHE_TTL"),
        ("CACHE_MAX_SIZE", "MAX_CACHE_SIZE"),
        ("CACHE_SIZE", "MAX_CACHE_SIZE"),
        ("REQEST_TIMEOUT", "REQUEST_TIMEOUT"),
        ("REQUEST_TIMEOUTS", "REQUEST_TIMEOUT"),
        ("KEEP_ALIVE_TIMEOUT", "KEEPALIVE_TIMEOUT"),
        ("PROXY_URI", "PROXY_URL"),
        ("PROXYURL", "PROXY_URL"),
        ("OPENAI_API_URI", "OPENAI_API_URL"),
        ("OPENAI_APIURL", "OPENAI_API_URL"),
        ("OPENAI_BASE_URL", "OPENAI_API_URL"),
        ("OPENAI_API_BASE", "OPENAI_API_URL"),
        ("openai_base_url", "OPENAI_API_URL"),
        ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
        ("ADMIN_TOKENS", "ADMIN_TOKEN"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("port", "PORT"),
        ("GOPROXYAI_RATE_LIMIT", "RATE_LIMIT"),
        ("GOPROXYAI_LISTEN", "LISTEN"),
        ("GOPROXYAI_PORT", "PORT"),
    ],
)
def test_near_miss_is_reported(name: str, setting: str) -> None:
    assert meant(name) == setting


USUAL = {
    # Containers and shells.
    "PATH": "/usr/bin", "HOME": "/root", "HOSTNAME": "a1b2", "HOST": "x86_64", "TERM": "xterm",
    "LANG": "C.UTF-8", "LC_ALL": "C", "SHLVL": "1", "PWD": "/", "OLDPWD": "/", "USER": "root",
    "LOGNAME": "root", "SHELL": "/bin/sh", "TZ": "UTC", "CI": "1", "DEBUG": "1", "ENV": "prod",
    "PYTHON_VERSION": "3.11.7", "PYTHONUNBUFFERED": "1", "PYTHONPATH": "/app", "GPG_KEY": "A0",
    "PYTHON_PIP_VERSION": "23", "GOPROXY": "https://proxy.golang.org", "GOPATH": "/go",
    "NODE_ENV": "production", "LOG_DIR": "/var/log", "CACHE_DIR": "/cache", "TMPDIR": "/tmp",
    # Supervisors and platforms.
    "LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", "NOTIFY_SOCKET": "/run/n",
    "INVOCATION_ID": "1", "JOURNAL_STREAM": "8:1", "SUPERVISOR_PROCESS_NAME": "a", "DYNO": "web.1",
    "SUPERVISOR_GROUP_NAME": "a", "WEB_CONCURRENCY": "2", "MEMORY_AVAILABLE": "512",
    "AWS_REGION": "eu-west-1", "ECS_CONTAINER_METADATA_URI": "http://169.254.170.2/v3",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2", "GOOGLE_CLOUD_PROJECT": "p",
    "WEBSITE_HOSTNAME": "a.azurewebsites.net", "POD_NAME": "a", "POD_IP": "10.0.0.7",
    # Other programs and libraries.
    "HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://p:1",
    "http_proxy": "http://p:1", "https_proxy": "http://p:1", "FTP_PROXY": "http://p:1",
    "NO_PROXY": "localhost", "no_proxy": "localhost", "OPENAI_API_KEY": "sk-x",
    "OPENAI_ORG_ID": "org", "OPENAI_ORGANIZATION": "org", "OPENAI_API_VERSION": "1",
    "OPENAI_API_TYPE": "azure", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://o:4318",
    "OTEL_SERVICE_NAME": "goproxyai", "SSL_CERT_FILE": "/ca.pem", "REDIS_URL": "redis://r",
    "DATABASE_URL": "postgres://d", "REQUESTS_CA_BUNDLE": "/ca.pem", "API_URL": "http://a",
    "API_KEY": "x", "BASE_URL": "/", "TIMEOUT": "30", "MAX_MEMORY": "1", "CONFIG_FILE": "/c",
    # Kubernetes and Docker links.
    "KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_SERVICE_PORT_HTTPS": "443", "KUBERNETES_PORT": "tcp://10.96.0.1:443",
    "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
    "KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
    "GOPROXYAI_SERVICE_HOST": "10.0.0.1", "GOPROXYAI_SERVICE_PORT": "8080",
    "GOPROXYAI_SERVICE_PORT_HTTP": "8080", "GOPROXYAI_PORT": "tcp://10.0.0.1:8080",
    "GOPROXYAI_PORT_8080_TCP": "tcp://10.0.0.1:8080", "GOPROXYAI_PORT_8080_TCP_PORT": "8080",
    "PORT_8080_TCP": "tcp://10.0.0.1:8080", "PORT_NAME": "http", "OPENAI_PROXY_PORT": "udp://1:1",
    "ADMIN_PORT": "tcp://10.0.0.2:80", "RATE_LIMIT_SERVICE_HOST": "10.0.0.3",
    "RATE_LIMIT_PORT": "tcp://10.0.0.3:80", "OPENAI_API_SERVICE_PORT": "80",
}  # fmt: skip


def test_usual_environment_has_no_near_miss() -> None:
    assert list(near_misses(USUAL, NAMES)) == []


def test_settings_are_no_near_misses() -> None:
    assert list(near_misses(dict.fromkeys(NAMES, "1"), NAMES)) == []


def test_variable_without_value_is_not_reported() -> None:
    assert meant("RATELIMIT", " ") is None


def test_lower_case_form_is_reported_where_the_variable_is_not_set() -> None:
    assert meant("no_proxy") == "NO_PROXY"
    assert meant("no_proxy", NO_PROXY="") is None


def test_names_that_no_shell_can_set_are_not_reported() -> None:
    assert meant("RATE_LIMIT\n") is None
    assert meant("RATE_L\u0130MIT") is None


def test_aliases_name_settings() -> None:
    assert set(ALIASES.values()) <= NAMES
    assert NAMES.isdisjoint(ALIASES)


@given(st.sampled_from(LONG_NAMES), st.integers(0, 20), st.sampled_from("AXZ"))
def test_one_typing_error_is_recognised(name: str, place: int, letter: str) -> None:
    place %= len(name)
    one = name[:place] + letter + name[place:]
    without = name[:place] + name[place + 1 :]
    swapped = name[:place] + name[place : place + 2][::-1] + name[place + 2 :]
    for wrong in {one, without, swapped} - NAMES:
        assert meant(wrong) is not None


@given(st.sampled_from(LONG_NAMES), st.sampled_from(LONG_NAMES))
def test_words_of_two_settings_together_are_no_typing_error(one: str, other: str) -> None:
    assert meant(f"{one}_{other}") is None
