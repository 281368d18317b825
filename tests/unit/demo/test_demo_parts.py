"""The made-up API's phases and answers, and the requests of the made-up clients."""

from __future__ import annotations

import json
from itertools import islice, pairwise
from random import Random
from typing import Any

import pytest

from goproxyai.demo.answers import (
    CHAT_MODELS,
    PRICES,
    Answer,
    answer,
    rate_limited,
    unavailable,
)
from goproxyai.demo.phases import (
    CALM,
    CYCLE,
    OUTAGE,
    QUIET,
    Period,
    Phase,
    describe_faults,
    periods,
)
from goproxyai.demo.scenario import CLIENTS, DECK, Scenario, batch_call
from goproxyai.usage import prices

CHAT = "/v1/chat/completions"


def test_phases_repeat_and_have_an_outage_every_four_minutes() -> None:
    assert list(islice(periods(False), 1, 1 + 2 * len(CYCLE))) == [*CYCLE, *CYCLE]
    assert {period.phase for period in CYCLE} == set(Phase)
    assert sum(period.seconds for period in CYCLE) == 240


def test_first_ten_minutes_have_no_faults() -> None:
    assert next(periods(False)) == CALM == Period(Phase.NORMAL, 600.0)
    assert describe_faults(False) == (
        "The made-up API answers all requests for 10 minutes, and then fails at times. "
        "With --outage, the demo begins with an outage."
    )


def test_demo_may_begin_with_an_outage() -> None:
    assert list(islice(periods(True), 4)) == [QUIET, OUTAGE, *CYCLE[:2]]
    assert describe_faults(True) == ("An outage of 60 s begins in 15 s, and then every 4 minutes.")


def answered(path: str, document: Any, method: str = "POST", key: str = "sk-any") -> Answer:
    headers = {"authorization": f"Bearer {key}"}
    return answer(method, path, headers, json.dumps(document).encode(), 3)


def document_of(one: Answer) -> Any:
    return json.loads(b"".join(one.pieces))


def test_completion_is_complete_and_has_its_usage() -> None:
    one = answered(CHAT, {"model": "m"})
    document = document_of(one)
    assert (one.status, one.content_type, document["model"]) == (200, "application/json", "m")
    (choice,) = document["choices"]
    assert choice["finish_reason"] == "stop"
    words = len(choice["message"]["content"].split())
    assert document["usage"]["completion_tokens"] == words >= 10


def test_stream_has_a_finish_reason_a_usage_and_its_end() -> None:
    one = answered(CHAT, {"model": "m", "stream": True})
    assert one.content_type == "text/event-stream"
    *events, end = one.pieces
    assert end == b"data: [DONE]\n\n"
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == len(chunks) - 3


def test_models_and_embeddings_are_answered() -> None:
    listed = document_of(answered("/v1/models", None, "GET"))
    assert {*CHAT_MODELS} < {model["id"] for model in listed["data"]}
    assert document_of(answered("/v1/embeddings", {"model": "e"}))["data"][0]["embedding"]


@pytest.mark.parametrize(
    ("one", "status"),
    [
        (answered(CHAT, {"model": "m"}, key="sk-wrong-1"), 401),
        (answered(CHAT, {}), 400),
        (answered(CHAT, []), 400),
        (answer("POST", CHAT, {}, b"{", 1), 400),
        (answered("/v1/files", {"model": "m"}), 404),
        (answered("/v1/files", None, "DELETE"), 404),
        (rate_limited(), 429),
        (unavailable(), 503),
    ],
)
def test_errors_have_the_format_of_openai(one: Answer, status: int) -> None:
    assert one.status == status
    assert {"message", "type", "param", "code"} == set(document_of(one)["error"])


def test_request_without_a_key_is_answered() -> None:
    assert answer("GET", "/v1/models", {}, b"", 1).status == 200


def test_one_model_has_no_price() -> None:
    table = prices.parse(PRICES)
    assert [table.price(name) is None for name in CHAT_MODELS] == [False, False, True]


def test_every_kind_of_request_is_sent_in_each_turn() -> None:
    scenario = Scenario(Random(1))
    for _ in range(2):
        calls = [scenario.next_call(CLIENTS[0]) for _ in DECK]
        assert sorted(call.kind for call in calls) == sorted(DECK)
        assert {call.client for call in calls} == {CLIENTS[0]}
        assert {call.kind for call in calls if call.disconnects} == {"disconnect"}
        for call in calls:
            assert (call.body is None) is (call.method == "GET")
            assert call.key.startswith("sk-wrong" if call.kind == "wrong key" else "sk-made-up")


def test_failing_requests_are_a_turn_apart() -> None:
    scenario = Scenario(Random(1))
    kinds = [scenario.next_call(CLIENTS[0]).kind for _ in range(5 * len(DECK))]
    places = [place for place, kind in enumerate(kinds) if kind == "wrong key"]
    assert {later - place for place, later in pairwise(places)} == {len(DECK)}


def test_unique_requests_differ_and_questions_repeat() -> None:
    scenario = Scenario(Random(1))
    calls = [scenario.next_call(CLIENTS[0]) for _ in range(5 * len(DECK))]

    def distinct(kind: str) -> float:
        bodies = [call.body for call in calls if call.kind == kind]
        return len(set(bodies)) / len(bodies)

    assert distinct("unique question") == distinct("unique stream") == 1
    assert distinct("question") < 0.5


def test_batch_repeats_its_documents() -> None:
    assert batch_call(1).body == batch_call(51).body != batch_call(2).body
