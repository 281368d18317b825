"""Counters: routes, and the bound of the outcome table."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from goproxyai.telemetry.counters import MAX_OUTCOMES, ROUTES, Counters, route_of


def test_route_is_a_resource_with_its_subresources() -> None:
    assert route_of("/v1/files/file-1/content?x=1") == "/v1/files"
    assert route_of("/v1/chat/completions") == "/v1/chat/completions"
    assert route_of("/v1/chat/completions/") == "/v1/chat/completions"
    assert route_of("/health/live") == "/health"
    for other in ("", "/", "*", "/v1", "/v1/filesystem", "/v1/%FF", "v1/files", "//v1/files"):
        assert route_of(other) == "other"
    assert len(set(ROUTES)) == len(ROUTES)


@given(st.sampled_from(ROUTES), st.text(max_size=20))
def test_route_of_any_path_is_its_longest_prefix(route: str, rest: str) -> None:
    path = f"{route}{rest}".partition("?")[0]
    prefixes = [each for each in ROUTES if path == each or path.startswith(f"{each}/")]
    assert route_of(path) == max(prefixes, key=len, default="other")


def test_outcome_combinations_are_bounded() -> None:
    finished = Counters().finished
    for status in range(100, 600):
        for cache in ("HIT", "MISS", "-", "STALE", "off"):
            finished.add_outcome("/v1/models", b"GET", status, cache, 1)
    assert len(finished.outcomes) <= MAX_OUTCOMES + 5
    assert sum(finished.outcomes.values()) == 2500
