"""Writes that reach the kernel at once: order, partial sends, errors, producers, fallbacks."""

from __future__ import annotations

import errno
import select
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.testing import StringTransport

from goproxyai.reactor import socket_write
from goproxyai.reactor.socket_write import (
    PRIVATE_NAMES,
    has_send_buffer,
    send_buffered,
    unsent_bytes,
    write_through,
)
from tests.support.memory_transport import RecordingProducer
from tests.unit.reactor.socket_pair import TIMEOUT_MS, SocketPair, TLSLayer


def test_write_that_the_kernel_takes_is_not_buffered(pair: SocketPair) -> None:
    write_through(pair.transport, b"hello")
    assert pair.sends == [5]
    assert not pair.is_writing
    assert unsent_bytes(pair.transport) == 0
    assert pair.receive(5) == b"hello"


def test_empty_write_sends_nothing(pair: SocketPair) -> None:
    write_through(pair.transport, b"")
    write_through(pair.transport, b"a")
    assert pair.receive(1) == b"a"
    assert not pair.is_writing


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_partial_send_buffers_the_remainder(pair: SocketPair, taken: int) -> None:
    pair.limits = [taken]
    write_through(pair.transport, b"hello")
    assert unsent_bytes(pair.transport) == 5 - taken
    assert pair.is_writing
    pair.write_all()
    assert unsent_bytes(pair.transport) == 0
    assert pair.receive(5) == b"hello"
    assert pair.has_no_more_data()


def test_write_after_buffered_bytes_keeps_the_order(pair: SocketPair) -> None:
    pair.limits = [2]
    write_through(pair.transport, b"hello")
    write_through(pair.transport, b" you")
    pair.transport.write(b" all")
    assert pair.sends == [2]
    assert unsent_bytes(pair.transport) == 11
    pair.write_all()
    write_through(pair.transport, b"!")
    assert pair.receive(14) == b"hello you all!"
    assert not pair.is_writing


def test_write_after_transport_write_keeps_the_order(pair: SocketPair) -> None:
    pair.transport.write(b"one")
    write_through(pair.transport, b"two")
    assert pair.sends == []
    pair.limits = [1, 0, 3]
    pair.transport.doWrite()
    assert unsent_bytes(pair.transport) == 5
    write_through(pair.transport, b"three")
    pair.write_all()
    assert pair.receive(11) == b"onetwothree"


def test_write_larger_than_the_socket_buffer_arrives_whole(pair: SocketPair) -> None:
    data = bytes(range(256)) * 4000
    pair.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    write_through(pair.transport, data)
    assert 0 < unsent_bytes(pair.transport) < len(data)
    arrived = b""
    while len(arrived) < len(data):
        writers = [pair.transport] if pair.is_writing else []
        readable, writable, _ = select.select([pair.peer], writers, [], TIMEOUT_MS / 1000)
        assert readable or writable
        if writable:
            pair.transport.doWrite()
        if readable:
            arrived += pair.peer.recv(1 << 20)
    assert arrived == data
    assert unsent_bytes(pair.transport) == 0


def test_random_writes_and_partial_sends_keep_the_order(pair: SocketPair) -> None:
    @given(
        st.lists(st.tuples(st.binary(max_size=20), st.booleans()), max_size=12),
        st.lists(st.integers(0, 12), max_size=20),
    )
    def check(writes: list[tuple[bytes, bool]], limits: list[int]) -> None:
        pair.limits = list(limits)
        for data, turn in writes:
            write_through(pair.transport, data)
            if turn and pair.is_writing:
                pair.transport.doWrite()
        pair.limits = []
        pair.write_all()
        expected = b"".join(data for data, _ in writes)
        assert pair.receive(len(expected)) == expected
        assert unsent_bytes(pair.transport) == 0

    check()


def test_socket_error_is_left_to_the_reactor(pair: SocketPair) -> None:
    error = ConnectionResetError(errno.ECONNRESET, "planted")
    pair.limits = [error, error]
    write_through(pair.transport, b"hello")
    assert pair.protocol.reason is None
    assert pair.is_writing
    assert pair.transport.doWrite() is CONNECTION_LOST


def test_buffered_bytes_are_sent_at_once_and_in_order(pair: SocketPair) -> None:
    pair.transport.write(b"hello")
    pair.transport.write(b" you")
    pair.limits = [6]
    send_buffered(pair.transport)
    assert pair.sends == [6]
    assert unsent_bytes(pair.transport) == 3
    assert pair.is_writing
    send_buffered(pair.transport)
    assert pair.receive(9) == b"hello you"
    assert not pair.is_writing
    send_buffered(pair.transport)  # nothing is buffered
    assert pair.sends == [6, 3]


def test_socket_error_of_buffered_bytes_is_left_to_the_reactor(pair: SocketPair) -> None:
    error = ConnectionResetError(errno.ECONNRESET, "planted")
    pair.limits = [error, error]
    pair.transport.write(b"hello")
    send_buffered(pair.transport)
    assert pair.protocol.reason is None
    assert pair.is_writing
    assert pair.transport.doWrite() is CONNECTION_LOST


def test_buffered_bytes_of_a_closing_transport_are_left_to_the_reactor(pair: SocketPair) -> None:
    pair.transport.write(b"hello")
    pair.transport.loseConnection()
    send_buffered(pair.transport)
    assert pair.sends == []
    assert pair.is_writing


def test_buffered_bytes_of_an_unknown_transport_are_left_to_the_reactor() -> None:
    transport = StringTransport()
    transport.write(b"hello")
    send_buffered(transport)
    assert transport.value() == b"hello"


def test_write_to_a_reset_connection_raises_nothing(pair: SocketPair) -> None:
    pair.reset_by_peer()
    pair.transport.socket = pair.kernel
    write_through(pair.transport, b"hello")
    write_through(pair.transport, b"hello")
    assert pair.is_writing
    assert isinstance(pair.transport.doWrite(), Exception)
    assert pair.protocol.reason is None


def test_write_after_half_close_is_dropped(pair: SocketPair) -> None:
    pair.limits = [2]
    write_through(pair.transport, b"hello")
    pair.transport.loseWriteConnection()
    pair.write_all()
    write_through(pair.transport, b"more")
    assert pair.sends == [2, 3]
    assert pair.receive(5) == b"hello"
    assert pair.peer.recv(1) == b""


def test_write_to_a_closing_connection_is_not_sent_directly(pair: SocketPair) -> None:
    pair.limits = [2]
    write_through(pair.transport, b"hello")
    pair.transport.loseConnection()
    write_through(pair.transport, b" you")
    assert pair.sends == [2]
    pair.transport.connected = 0
    write_through(pair.transport, b"late")
    assert pair.sends == [2]
    assert unsent_bytes(pair.transport) == 7


def test_full_buffer_pauses_the_producer_and_empty_buffer_resumes_it(pair: SocketPair) -> None:
    producer = RecordingProducer()
    pair.transport.registerProducer(producer, True)
    pair.limits = [1000]
    write_through(pair.transport, b"x" * 2000)
    assert producer.calls == []
    write_through(pair.transport, b"x" * pair.transport.bufferSize)
    assert producer.calls == ["pause"]
    pair.limits = [1000]
    pair.transport.doWrite()
    write_through(pair.transport, b"x")
    assert set(producer.calls) == {"pause"}
    pair.write_all()
    assert producer.calls[-1] == "resume"
    size = pair.transport.bufferSize + 2001
    assert pair.receive(size) == b"x" * size
    pair.transport.unregisterProducer()


def test_direct_write_does_not_pause_the_producer(pair: SocketPair) -> None:
    producer = RecordingProducer()
    pair.transport.registerProducer(producer, True)
    for _ in range(10):
        write_through(pair.transport, b"x" * 10_000)
        pair.receive(10_000)
    assert producer.calls == []
    pair.transport.unregisterProducer()


def test_in_memory_transport_is_written_to_as_usual() -> None:
    transport = StringTransport()
    write_through(transport, b"hello")
    assert transport.value() == b"hello"
    assert unsent_bytes(transport) == 0


def test_write_below_tls_is_not_direct(pair: SocketPair) -> None:
    layer = TLSLayer(pair.transport)
    write_through(layer, b"secret")
    assert layer.written == [b"secret"]
    assert pair.sends == []


def test_unsent_bytes_of_all_tls_layers_are_counted(pair: SocketPair) -> None:
    pair.limits = [2]
    write_through(pair.transport, b"hello")
    inner = TLSLayer(pair.transport)
    inner._appSendBuffer += [b"abc", b"d"]
    outer = TLSLayer(inner)
    outer._appSendBuffer += [b"e"]
    assert unsent_bytes(pair.transport) == 3
    assert unsent_bytes(inner) == 7
    assert unsent_bytes(outer) == 8


# Twisted releases without the private names.


def test_installed_twisted_has_the_send_buffer() -> None:
    assert has_send_buffer(FileDescriptor(object()))  # type: ignore[arg-type]
    assert socket_write._DIRECT


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_missing_name_makes_the_send_buffer_unknown(name: str) -> None:
    class Descriptor:
        """Has all names but one."""

        def __init__(self) -> None:
            for each in PRIVATE_NAMES:
                if each != name:
                    setattr(self, each, b"")

    assert not has_send_buffer(Descriptor())


def test_write_without_known_send_buffer_uses_the_transport(
    pair: SocketPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_write, "_DIRECT", ())
    write_through(pair.transport, b"hello")
    assert pair.sends == []
    assert unsent_bytes(pair.transport) == 5
    pair.write_all()
    assert pair.receive(5) == b"hello"


def test_unknown_buffers_count_as_empty() -> None:
    assert unsent_bytes(object()) == 0
