"""The TLS layer between a transport in memory and a protocol, against OpenSSL as the peer."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOProtocol

from goproxyai.reactor import tls_records, tls_transport
from goproxyai.reactor.socket_state import can_half_close, transport_layers
from goproxyai.reactor.socket_write import unsent_bytes, write_through
from goproxyai.reactor.tls_transport import MAX_PENDING_BYTES, MAX_REPLY_BYTES, TLSFactory
from tests.support.memory_transport import RecordingProducer
from tests.unit.reactor.tls_peers import (
    ForgedRecords,
    Recorder,
    TLSRig,
    client_tls,
    server_options,
)

RECORD_BYTES = 22
"""What a record of TLS 1.3 has besides its data."""

both_sides = pytest.mark.parametrize("server", [False, True])
both_versions = pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])


# Data.


@both_sides
@both_versions
def test_data_passes_both_ways(server: bool, version: int) -> None:
    rig = TLSRig(server, version).start()
    rig.tls.write(b"hello")
    rig.tls.writeSequence([b" ", b"peer"])
    rig.tls.write(b"")
    rig.receive(rig.peer.records(b"hi"))
    rig.pump()
    assert rig.peer.received == b"hello peer"
    assert rig.protocol.received == [b"hi"]
    assert rig.protocol.reason is None


def test_write_reaches_the_transport_at_once() -> None:
    rig = TLSRig().start()
    write_through(rig.tls, b"hello")
    rig.peer.feed(rig.sent())
    assert rig.peer.received == b"hello"


def test_records_of_one_read_are_delivered_in_one_piece() -> None:
    rig = TLSRig().start()
    rig.receive(rig.peer.records(b"one", b"two", b"three"))
    assert rig.protocol.received == [b"onetwothree"]


@both_versions
@given(st.lists(st.lists(st.integers(1, 16_384), min_size=1, max_size=4), max_size=6))
def test_reads_of_whole_records_are_delivered_whole(version: int, reads: list[list[int]]) -> None:
    rig = TLSRig(version=version).start()
    expected = []
    for sizes in reads:
        parts = [bytes([65 + at]) * size for at, size in enumerate(sizes)]
        expected.append(b"".join(parts))
        rig.receive(rig.peer.records(*parts))
    assert rig.protocol.received == expected
    assert rig.sent() == b""


def test_close_notify_after_reads_of_several_records_ends_the_connection() -> None:
    rig = TLSRig().start()
    rig.receive(rig.peer.records(b"one", b"two"))
    cut = rig.peer.records(b"three", b"four")
    rig.receive(cut[:-1])
    rig.receive(cut[-1:] + rig.peer.records(b"five") + rig.peer.close())
    assert rig.protocol.received == [b"onetwo", b"three", b"fourfive"]
    assert rig.below.disconnecting


@pytest.mark.parametrize("size", [16_384, 16_385, 300_000, 1_000_000])
def test_large_data_passes_both_ways(size: int) -> None:
    rig = TLSRig().start()
    data = bytes(range(256)) * (size // 256) + b"a" * (size % 256)
    rig.tls.write(data)
    rig.pump()
    assert rig.peer.received == data
    while data:
        taken = rig.peer.connection.send(data)
        data = data[taken:]
    rig.pump()
    assert b"".join(rig.protocol.received) == rig.peer.received


@both_sides
@both_versions
def test_records_may_be_cut_anywhere(version: int, server: bool) -> None:
    @given(
        st.lists(st.binary(min_size=1, max_size=50), max_size=8),
        st.lists(st.integers(1, 100), min_size=1, max_size=20),
    )
    def check(plaintexts: list[bytes], sizes: list[int]) -> None:
        rig.protocol.received.clear()
        records, size = rig.peer.records(*plaintexts), cycle(sizes)
        while records:
            cut = next(size)
            rig.tls.dataReceived(records[:cut])
            records = records[cut:]
        assert b"".join(rig.protocol.received) == b"".join(plaintexts)

    rig = TLSRig(server, version).start()
    check()


@both_versions
def test_handshake_may_be_cut_anywhere(version: int) -> None:
    rig = TLSRig(version=version)
    rig.connect()
    rig.tls.write(b"early")
    while not rig.protocol.handshakes:
        rig.peer.feed(rig.sent())
        for byte in rig.peer.output():
            rig.tls.dataReceived(bytes([byte]))
    rig.pump()
    assert rig.peer.received == b"early"


def test_data_that_follows_the_handshake_in_one_read_is_delivered() -> None:
    rig = TLSRig(server=True)
    rig.connect()
    rig.peer.feed(b"")
    rig.receive(rig.peer.output())
    rig.peer.feed(rig.sent())
    rig.peer.connection.send(b"request")
    rig.receive(rig.peer.output())
    assert (rig.protocol.handshakes, rig.protocol.received) == (1, [b"request"])


def test_all_that_openssl_holds_is_sent_in_order() -> None:
    rig = TLSRig().start()
    pieces = [bytes([number]) * 16_000 for number in range(5)]
    for piece in pieces:
        rig.tls.getHandle().send(piece)
    rig.tls.write(b"end")
    rig.peer.feed(rig.sent())
    assert rig.peer.received == b"".join(pieces) + b"end"


def test_response_to_a_request_that_follows_the_handshake_is_sent_with_its_end() -> None:
    rig = TLSRig(server=True)
    writes: list[bytes] = []
    rig.protocol.on_data = lambda _: rig.tls.write(b"response")
    rig.connect()
    rig.peer.feed(b"")
    rig.receive(rig.peer.output())
    rig.peer.feed(rig.sent())
    rig.peer.connection.send(b"request")
    rig.below.write = writes.append  # type: ignore[method-assign]
    rig.receive(rig.peer.output())
    assert len(writes) == 1
    rig.peer.feed(writes[0])
    assert rig.peer.received == b"response"


# Before the end of the handshake.


def test_data_written_during_the_handshake_follows_it() -> None:
    rig = TLSRig()
    rig.protocol.on_start = lambda: rig.tls.write(b"first ")
    rig.protocol.on_handshake = lambda: rig.tls.write(b"third")
    rig.connect()
    rig.tls.write(b"second ")
    assert unsent_bytes(rig.tls) == len(b"first second ")
    assert b"first" not in rig.below.value()
    rig.pump()
    assert rig.peer.received == b"first second third"
    assert unsent_bytes(rig.tls) == 0


def test_request_is_sent_with_the_end_of_the_handshake() -> None:
    rig = TLSRig()
    writes: list[bytes] = []
    rig.protocol.on_handshake = lambda: rig.tls.write(b"request")
    rig.connect()
    rig.peer.feed(rig.sent())
    rig.below.write = writes.append  # type: ignore[method-assign]
    rig.receive(rig.peer.output())
    assert len(writes) == 1


def test_producer_waits_for_the_handshake() -> None:
    rig, producer = TLSRig(), RecordingProducer()
    rig.connect()
    rig.tls.registerProducer(producer, True)
    rig.tls.write(b"a" * MAX_PENDING_BYTES)
    assert producer.calls == []
    rig.tls.write(b"a")
    assert producer.calls == ["pause"]
    rig.pump()
    assert producer.calls == ["pause", "resume"]
    assert len(rig.peer.received) == MAX_PENDING_BYTES + 1


def test_producer_is_left_to_the_transport_that_has_paused_it() -> None:
    rig, producer = TLSRig(), RecordingProducer()
    rig.connect()
    rig.tls.registerProducer(producer, True)
    rig.tls.write(b"a" * (MAX_PENDING_BYTES + 1))
    rig.below.producerPaused = True  # type: ignore[attr-defined]
    assert rig.tls.producerPaused
    rig.pump()
    assert producer.calls == ["pause"]


def test_close_during_the_handshake_resets() -> None:
    rig = TLSRig()
    rig.connect()
    rig.tls.loseConnection()
    assert rig.below.aborted


def test_close_during_the_handshake_waits_for_written_data() -> None:
    rig = TLSRig()
    rig.connect()
    rig.tls.write(b"last")
    rig.tls.loseConnection()
    rig.tls.write(b"too late")
    assert not rig.below.aborted
    rig.pump()
    assert rig.peer.received == b"last"
    assert isinstance(rig.peer.ended, SSL.ZeroReturnError)


@pytest.mark.parametrize("moment", ["on_start", "on_handshake", "on_data"])
def test_protocol_may_reset_the_connection_in_any_call(moment: str) -> None:
    rig = TLSRig()
    setattr(rig.protocol, moment, lambda *_: rig.tls.abortConnection())
    rig.connect()
    rig.pump()
    if moment == "on_data":
        rig.receive(rig.peer.records(b"one") + rig.peer.close())
    assert rig.below.aborted
    rig.receive(b"ignored")
    rig.lose(ConnectionAborted())
    assert isinstance(rig.protocol.error, ConnectionAborted)
    assert rig.sent() == b""


@pytest.mark.parametrize("moment", ["on_handshake", "on_data"])
def test_protocol_may_close_the_connection_in_any_call(moment: str) -> None:
    rig = TLSRig()
    setattr(rig.protocol, moment, lambda *_: rig.tls.loseConnection())
    rig.connect()
    rig.pump()
    rig.receive(rig.peer.records(b"one"))
    rig.pump()
    assert isinstance(rig.peer.ended, SSL.ZeroReturnError)


# The end.


@both_sides
@both_versions
def test_close_sends_close_notify_and_waits_for_that_of_the_peer(
    server: bool, version: int
) -> None:
    rig = TLSRig(server, version).start()
    rig.tls.write(b"last")
    rig.tls.loseConnection()
    rig.tls.loseConnection()
    rig.tls.write(b"too late")
    rig.peer.feed(rig.sent())
    assert rig.peer.received == b"last"
    assert isinstance(rig.peer.ended, SSL.ZeroReturnError)
    assert not rig.below.disconnecting
    rig.receive(rig.peer.close())
    assert rig.below.disconnecting
    rig.lose(ConnectionDone())
    assert isinstance(rig.protocol.error, ConnectionDone)


def test_input_is_delivered_until_the_peer_closes_as_well() -> None:
    rig = TLSRig().start()
    rig.tls.loseConnection()
    rig.receive(rig.peer.records(b"late"))
    assert rig.protocol.received == [b"late"]


@both_versions
def test_close_notify_of_the_peer_ends_the_connection(version: int) -> None:
    rig = TLSRig(version=version).start()
    rig.receive(rig.peer.records(b"last") + rig.peer.close() + b"ignored")
    assert rig.protocol.received == [b"last"]
    assert rig.below.disconnecting
    rig.peer.feed(rig.sent())
    assert isinstance(rig.peer.ended, SSL.ZeroReturnError)
    rig.tls.write(b"dropped")
    rig.tls.loseConnection()
    assert rig.sent() == b""
    rig.receive(b"ignored")
    rig.lose(ConnectionDone())
    assert isinstance(rig.protocol.error, ConnectionDone)


def test_close_after_the_close_notify_of_the_peer_ends_the_connection() -> None:
    rig = TLSRig().start()
    rig.protocol.on_data = lambda _: rig.tls.loseConnection()
    rig.receive(rig.peer.records(b"last") + rig.peer.close())
    assert rig.below.disconnecting
    rig.peer.feed(rig.sent())
    assert isinstance(rig.peer.ended, SSL.ZeroReturnError)


@pytest.mark.parametrize("closes", [False, True])
def test_close_notify_of_a_peer_that_does_not_read_ends_the_connection(closes: bool) -> None:
    rig = TLSRig().start()
    rig.below.stalled = True
    rig.tls.write(b"unread")
    if closes:
        rig.protocol.on_data = lambda _: rig.tls.loseConnection()
    rig.receive(rig.peer.records(b"last") + rig.peer.close())
    assert rig.protocol.received == [b"last"]
    assert rig.below.aborted
    rig.lose(ConnectionAborted())
    assert isinstance(rig.protocol.error, ConnectionDone)


@pytest.mark.parametrize("handshake", [False, True])
def test_end_without_close_notify_is_a_lost_connection(handshake: bool) -> None:
    rig = TLSRig()
    rig.connect()
    if handshake:
        rig.pump()
        records = rig.peer.records(b"whole", b"cut")
        rig.receive(records[:-1])
        assert rig.protocol.received == [b"whole"]
    rig.lose(ConnectionDone())
    assert type(rig.protocol.error) is ConnectionLost


def test_end_after_a_close_that_the_peer_does_not_answer_is_a_lost_connection() -> None:
    rig = TLSRig().start()
    rig.tls.loseConnection()
    rig.lose(ConnectionDone())
    assert type(rig.protocol.error) is ConnectionLost


def test_reset_sends_no_close_notify() -> None:
    rig = TLSRig().start()
    rig.tls.abortConnection()
    assert rig.below.aborted
    assert rig.sent() == b""
    rig.tls.write(b"dropped")
    rig.lose(ConnectionAborted())
    assert isinstance(rig.protocol.error, ConnectionAborted)


def test_close_waits_for_the_producer() -> None:
    rig, producer = TLSRig().start(), RecordingProducer()
    rig.tls.registerProducer(producer, True)
    rig.tls.loseConnection()
    rig.tls.write(b"last")
    assert not rig.below.disconnecting
    rig.tls.unregisterProducer()
    rig.tls.unregisterProducer()
    rig.pump()
    assert rig.peer.received == b"last"
    assert isinstance(rig.peer.ended, SSL.ZeroReturnError)


def test_producer_of_an_ended_connection_is_stopped() -> None:
    rig, producer = TLSRig().start(), RecordingProducer()
    rig.tls.abortConnection()
    rig.tls.registerProducer(producer, True)
    assert producer.calls == ["stop"]


def test_lost_connection_tells_nothing_and_takes_nothing() -> None:
    rig = TLSRig().start()
    assert rig.tls.getPeerCertificate() is not None
    rig.lose(ConnectionLost())
    rig.tls.write(b"dropped")
    rig.tls.loseConnection()
    assert rig.tls.getHandle() is None
    assert rig.tls.getPeerCertificate() is None
    assert rig.tls.negotiatedProtocol is None
    assert rig.sent() == b""


def test_lost_connection_is_released_at_once() -> None:
    gc.disable()
    try:
        rig = TLSRig().start()
        tls, handle = weakref.ref(rig.tls), weakref.ref(rig.tls.getHandle())
        rig.lose(ConnectionLost())
        rig.protocol.transport = None
        del rig.tls
        assert (tls(), handle()) == (None, None)
    finally:
        gc.enable()


# Failures.


@both_versions
def test_invalid_record_is_an_openssl_error_and_is_answered_by_an_alert(version: int) -> None:
    rig = TLSRig(version=version).start()
    good, bad = rig.peer.records(b"whole"), rig.peer.records(b"broken")
    rig.receive(good + bad[:-1] + bytes([bad[-1] ^ 1]))
    assert rig.protocol.received == [b"whole"]
    assert rig.below.disconnecting
    rig.peer.feed(rig.sent())
    assert "bad record mac" in str(rig.peer.ended)
    rig.lose(ConnectionDone())
    assert "bad record mac" in str(rig.protocol.error)


def test_invalid_record_of_a_peer_that_does_not_read_ends_the_connection() -> None:
    rig = TLSRig().start()
    rig.below.stalled = True
    rig.tls.write(b"unread")
    rig.receive(b"no record")
    assert rig.below.aborted
    rig.lose(ConnectionAborted())
    assert type(rig.protocol.error) is SSL.Error


def test_peer_without_tls_is_an_openssl_error() -> None:
    rig = TLSRig()
    rig.connect()
    rig.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert rig.below.disconnecting
    rig.lose(ConnectionDone())
    assert type(rig.protocol.error) is SSL.Error
    assert rig.protocol.handshakes == 0


def test_handshake_that_the_peer_refuses_is_an_openssl_error() -> None:
    context = server_options().getContext()
    context.set_options(SSL.OP_NO_TLSv1_3)
    rig = TLSRig(tls=client_tls(), server=False, version=SSL.TLS1_3_VERSION)
    rig.connect()
    rig.sent()
    rig.receive(bytes.fromhex("15 0303 0002 02 28"))  # the alert handshake_failure
    rig.lose(ConnectionDone())
    assert "handshake failure" in str(rig.protocol.error)


def test_certificate_of_another_host_is_refused_with_the_reason() -> None:
    rig = TLSRig(tls=client_tls("other.test"))
    rig.protocol.on_start = lambda: rig.tls.write(b"secret")
    rig.connect()
    rig.pump()
    assert rig.protocol.handshakes == 0
    assert rig.below.disconnecting
    assert rig.peer.received == b""
    assert "alert" in str(rig.peer.ended)
    rig.lose(ConnectionDone())
    assert isinstance(rig.protocol.error, VerificationError)


def test_data_that_openssl_does_not_take_fails_the_connection() -> None:
    rig = TLSRig().start()
    rig.tls.getHandle().shutdown()
    rig.tls.write(b"a")
    assert rig.below.disconnecting
    rig.lose(ConnectionDone())
    assert type(rig.protocol.error) is SSL.Error


# Peers that keep OpenSSL busy.


def test_client_cannot_renegotiate() -> None:
    rig = TLSRig(server=True, version=SSL.TLS1_2_VERSION).start()
    rig.peer.connection.renegotiate()
    rig.peer.shakes_hands = True
    rig.peer.feed(b"")
    rig.pump()
    assert rig.tls.getHandle().total_renegotiations() == 0
    assert rig.protocol.handshakes == 1


def test_server_cannot_renegotiate() -> None:
    rig = TLSRig(version=SSL.TLS1_2_VERSION).start()
    rig.peer.connection.renegotiate()
    with suppress(SSL.WantReadError):
        rig.peer.connection.do_handshake()
    rig.receive(rig.peer.output())
    assert len(rig.sent()) < 100  # the alert no_renegotiation; a ClientHello is longer
    rig.tls.write(b"goes on")
    assert rig.sent()
    assert rig.protocol.reason is None


def forged_records(rig: TLSRig) -> ForgedRecords:
    return ForgedRecords(rig.secrets["SERVER_TRAFFIC_SECRET_0"])


def test_key_update_is_answered_with_the_next_write() -> None:
    rig = TLSRig().start()
    forged = forged_records(rig)
    rig.receive(forged.key_update() + forged.record(forged.APPLICATION_DATA, b"after"))
    assert rig.protocol.received == [b"after"]
    rig.tls.write(b"hello")
    assert len(rig.sent()) == 2 * RECORD_BYTES + len(forged.KEY_UPDATE) + len(b"hello")
    assert rig.protocol.reason is None


@pytest.mark.parametrize("at", range(4))
def test_key_update_is_found_anywhere_in_a_read_of_several_records(at: int) -> None:
    rig = TLSRig().start()
    forged = forged_records(rig)
    read = b"".join(
        forged.key_update() + forged.record(forged.APPLICATION_DATA, word)
        if number == at
        else forged.record(forged.APPLICATION_DATA, word)
        for number, word in enumerate((b"one", b"two", b"three"))
    )
    rig.receive(read + (forged.key_update() if at == 3 else b""))
    assert rig.protocol.received == [b"onetwothree"]
    rig.receive(forged.record(forged.APPLICATION_DATA, b"four"))
    rig.tls.write(b"hello")
    assert len(rig.sent()) == 2 * RECORD_BYTES + len(forged.KEY_UPDATE) + len(b"hello")


def test_peer_that_does_not_read_the_answers_to_key_updates_is_reset() -> None:
    rig = TLSRig().start()
    rig.below.stalled = True
    forged = forged_records(rig)
    updates = 0
    while not rig.below.aborted:
        rig.receive(forged.key_update())
        updates += 1
    # OpenSSL answers each one when it reads the next one.
    assert updates == MAX_REPLY_BYTES // (RECORD_BYTES + len(forged.KEY_UPDATE)) + 2
    assert len(rig.below.dataBuffer) <= MAX_REPLY_BYTES


def test_answers_that_the_peer_reads_are_not_limited() -> None:
    rig = TLSRig().start()
    forged = forged_records(rig)
    for _ in range(2 * MAX_REPLY_BYTES // RECORD_BYTES):
        rig.receive(forged.key_update())
    assert not rig.below.aborted


def test_endless_empty_records_fail_the_connection() -> None:
    rig = TLSRig().start()
    forged = forged_records(rig)
    for _ in range(100):
        rig.receive(forged.record(forged.APPLICATION_DATA, b""))
    rig.lose(ConnectionDone())
    assert type(rig.protocol.error) is SSL.Error


# Layers.


def test_tls_passes_through_tls() -> None:
    outer, inner = TLSRig().start(), TLSRig()
    outer.protocol.on_data = inner.tls.dataReceived
    inner.tls.makeConnection(outer.tls)
    inner.protocol.on_handshake = lambda: inner.tls.write(b"hello")
    inner.peer.feed(b"")
    for _ in range(4):
        outer.pump()
        inner.peer.feed(outer.peer.received)
        outer.peer.received = b""
        records = inner.peer.output()
        if records:
            outer.receive(outer.peer.records(records))
    assert inner.peer.received == b"hello"
    assert transport_layers(inner.tls) == [inner.tls, outer.tls, outer.below]


def test_unsent_bytes_are_those_of_all_layers() -> None:
    outer, inner = TLSRig().start(), TLSRig()
    inner.tls.makeConnection(outer.tls)
    outer.below.stalled = True
    inner.tls.write(b"waits")
    outer.tls.write(b"sent")
    assert unsent_bytes(inner.tls) == len(b"waits") + len(outer.below.dataBuffer)


def test_transport_below_is_controlled_by_the_protocol() -> None:
    rig = TLSRig().start()
    rig.tls.pauseProducing()
    assert not rig.below.reading
    rig.tls.resumeProducing()
    assert rig.below.reading
    assert rig.tls.getPeer() == rig.below.getPeer()
    assert rig.tls.getHost() == rig.below.getHost()
    assert isinstance(rig.tls.getPeer(), IPv4Address)
    assert not can_half_close(rig.tls)
    rig.tls.stopProducing()
    assert rig.sent()


def test_alpn_agrees_on_the_protocol_of_the_factory() -> None:
    rig = TLSRig().start()
    assert rig.tls.negotiatedProtocol == b"http/1.1"
    assert TLSRig(server=True).start().tls.negotiatedProtocol is None  # the client has no ALPN


# Fallbacks.


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(tls_records, "MISSING", ("SSL_write",)), (tls_transport, "FACTORY_NAMES", ("_gone",))],
)
def test_twisted_has_its_own_layer_without_the_private_names(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, value: tuple[str, ...]
) -> None:
    monkeypatch.setattr(module, name, value)
    factory = TLSFactory(client_tls(), True, Factory.forProtocol(Recorder))
    assert isinstance(factory.buildProtocol(None), TLSMemoryBIOProtocol)


def test_factory_without_a_protocol_has_no_layer() -> None:
    wrapped: Any = Factory()
    wrapped.buildProtocol = lambda _: None
    assert TLSFactory(client_tls(), True, wrapped).buildProtocol(None) is None


def test_connection_stays_usable_by_pyopenssl() -> None:
    rig = TLSRig().start()
    rig.tls.write(b"a" * 20_000)  # replaces a BIO
    rig.sent()
    handle = rig.tls.getHandle()
    handle.send(b"direct")
    assert handle.bio_read(100)
