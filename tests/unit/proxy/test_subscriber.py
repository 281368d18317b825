from __future__ import annotations

from goproxyai.errors import ProxyError
from goproxyai.proxy.subscriber import Subscriber, SubscriberSet
from goproxyai.telemetry.outcome import Ending
from tests.unit.proxy.parts import ClientConnection, ProxyParts, get_head, miss_of, proxy_parts


class Owner:
    """A flight that notes what its subscribers tell."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.calls: list[str] = []

    def subscriber_resumed(self, subscriber: Subscriber) -> None:
        self.calls.append("resumed")

    def subscriber_paused(self) -> None:
        self.calls.append("paused")

    def subscriber_left(self, subscriber: Subscriber) -> None:
        self.calls.append("left")

    def fail_subscriber(self, subscriber: Subscriber, error: ProxyError) -> None:
        self.calls.append(f"failed: {error.code}")

    def record(self, subscriber: Subscriber, ending: Ending = Ending.COMPLETE) -> None:
        self.calls.append(f"recorded: {ending.value}")


def subscriber_of(
    parts: ProxyParts, owner: Owner, is_leader: bool = False
) -> tuple[Subscriber, ClientConnection]:
    client, head = ClientConnection(), get_head()
    exchange = client.open_exchange(head, parts.clock)
    subscriber = Subscriber(
        parts.context, owner, exchange, "192.0.2.1", miss_of(parts, head), is_leader
    )
    exchange.start_response(200, b"HTTP/1.1 200 OK\r\n", None)
    exchange.register_producer(subscriber)
    return subscriber, client


def test_subscriber_receives_all_pieces_and_the_end() -> None:
    subscriber, client = subscriber_of(proxy_parts(), Owner([b"a", b"b"]))
    subscriber.write_pieces(ended=False)
    assert not client.completed
    subscriber.write_pieces(ended=True)
    assert client.response()[1] == b"ab"


def test_paused_subscriber_receives_nothing_until_it_resumes() -> None:
    owner = Owner([b"a"])
    subscriber, client = subscriber_of(proxy_parts(), owner)
    client.pause()
    subscriber.write_pieces(ended=True)
    assert client.written == b""
    client.resume()
    subscriber.write_pieces(ended=True)
    assert client.response()[1] == b"a"
    assert owner.calls == ["paused", "resumed"]


def test_leaving_client_is_recorded_before_it_leaves_the_flight() -> None:
    owner = Owner([])
    subscriber, _ = subscriber_of(proxy_parts(), owner)
    subscriber.exchange.connection_lost()
    assert owner.calls == ["recorded: client_gone", "left"]


def test_invalid_rest_of_a_request_fails_its_subscriber_alone() -> None:
    owner = Owner([])
    subscriber, _ = subscriber_of(proxy_parts(), owner)
    subscriber.exchange.fail(ProxyError("bad_request", "malformed"))
    assert owner.calls == ["failed: bad_request", "left"]


def test_set_counts_the_subscribers_that_accept_data() -> None:
    parts, owner = proxy_parts(), Owner([])
    first, _ = subscriber_of(parts, owner)
    second, _ = subscriber_of(parts, owner)
    second.reading = False
    members = SubscriberSet()
    members.add(first)
    members.add(second)
    assert (len(members), members.reading) == (2, 1)
    assert members.discard(first)
    assert not members.discard(first)
    assert (list(members), members.reading) == ([second], 0)


def test_set_keeps_one_subscriber_and_returns_the_others() -> None:
    parts, owner = proxy_parts(), Owner([])
    leader, _ = subscriber_of(parts, owner, is_leader=True)
    ahead, _ = subscriber_of(parts, owner)
    ahead.position = 3
    members = SubscriberSet()
    members.add(leader)
    members.add(ahead)
    assert members.leader is leader
    assert members.furthest is ahead
    assert members.keep_only(ahead) == [leader]
    assert (list(members), members.reading, members.leader) == ([ahead], 1, None)
    assert members.keep_only(None) == [ahead]
    assert (len(members), members.reading) == (0, 0)
