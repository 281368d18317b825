"""The seam to the second level of the cache, which several processes share.

A request that misses in the memory of its process is looked up in the second level. While one
process asks upstream for a key, look-ups of the same key in the other processes wait: single flight
across processes. :class:`SecondLevel` is implemented by

=================  ==============================  ==============================================
implementation     module                          shares with
=================  ==============================  ==============================================
none               ``SharedState.second_level``    nothing: it is ``None`` in a single process
=================  ==============================  ==============================================

The rules that every implementation follows:

1. *then* of a look-up is called once, and not after the look-up is cancelled. It may be called
   before :meth:`SecondLevel.look_up` returns.
2. A look-up whose answer the second level owes, and does not give within
   :data:`ANSWER_SECONDS`, ends with ``None, None``. The request is then forwarded as in a process
   without a second level. A look-up that waits for another process has been answered in this sense.
3. A :class:`Claim` is *exclusive* if other look-ups of the key wait for it. It ends by the first
   call of one of its three methods; further calls do nothing. If its process dies or hangs, it
   expires within seconds. The implementation renews it until it ends.
4. A claim has the state of the second level at its look-up: how many writes and clearings had
   happened. A response that a later clearing, or a later write of the same owner, has overtaken is
   refused when it is stored. So an implementation notes that state before the look-up is answered,
   and compares and stores in one step.
5. ``announce_write`` and ``announce_clearing`` of :class:`.SharedState` also drop the entries of
   the second level. A look-up after an announcement of the same process finds none of them.
6. Everything is bounded: the entries in bytes, records by :attr:`SecondLevel.max_record_bytes`,
   the claims, and the look-ups that wait. Beyond a bound, a look-up ends with ``None, None`` or
   with a claim that is not exclusive, and a record is not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from goproxyai.cache.entry import Entry
from goproxyai.cache.record import Record

ANSWER_SECONDS: Final = 0.1
"""The longest time that a request waits for a second level that does not respond."""


class Claim(Protocol):
    """The right to store the response to one upstream request in the second level.

    Exclusive, if the look-up asked for that: look-ups of the key in other processes then wait until
    the claim ends, so every path of the request must end it. A claim that is not exclusive may be
    forgotten.
    """

    def store(self, entry: Entry, replaces: bool = False) -> None:
        """Store the response, and answer with it what waits.

        Where it is outdated or too large, this does what :meth:`give_up` or :meth:`fail` does.

        :param entry: is stored in this process.
        :param replaces: the request refused the stored response, which the other processes drop
            from their memory.
        """

    def give_up(self) -> None:
        """The request ended without an answer, because its clients left.

        One of the look-ups that wait gets an exclusive claim, and the others wait for that.
        """

    def fail(self) -> None:
        """The request failed, or its response is not to be stored or not to be shared.

        All look-ups that wait end with ``None`` and a claim that is not exclusive: one after the
        other they would wait for as many failures.
        """


class LookUp(Protocol):
    """A look-up that may still be waiting."""

    def cancel(self) -> None:
        """The answer is no longer wanted. Does nothing after the answer."""


Answer = Callable[[Record | None, Claim | None], None]
"""Takes the result of a look-up: a record that has not expired; or ``None`` and a claim, if this
process is to ask upstream; or ``None, None``, if there is no second level at present."""


class SecondLevel(Protocol):
    """Stored responses that several processes share.

    :ivar max_record_bytes: the largest body that is stored; larger ones stay in the process.
    """

    @property
    def max_record_bytes(self) -> int: ...

    def claim_at_once(self, key: bytes, owner: bytes, path: bytes, claims: bool) -> Claim | None:
        """Return a claim, if it is known without a question that the look-up would give it.

        The arguments are those of :meth:`look_up`.
        """

    def look_up(
        self,
        key: bytes,
        owner: bytes,
        path: bytes,
        claims: bool,
        then: Answer,
        waited: float = 0.0,
        replaces: bool = False,
    ) -> LookUp:
        """Look for the response to a request.

        :param key: 32 bytes, made by :func:`~goproxyai.cache.key.cache_key`, the same in all
            processes of one release.
        :param owner: of the entry, see :meth:`goproxyai.cache.store.Store.put`; a write of the
            owner drops the entry.
        :param path: of the entry, by which a clearing may drop it.
        :param claims: the response may be shared by identical requests in progress: the look-up
            waits while another process has an exclusive claim, and gets one if none has. Without
            it the look-up does not wait.
        :param waited: seconds for which the request has waited for the shared state before. An
            implementation with one deadline for all that a request asks subtracts them.
        :param replaces: the request refuses the stored response. The look-up ends with a claim
            that is not exclusive, or ``None, None``; without a record.
        """
