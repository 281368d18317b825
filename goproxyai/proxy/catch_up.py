"""Continue the responses of subscribers that have fallen behind their flight."""

from __future__ import annotations

from goproxyai.cache.entry import Entry
from goproxyai.http11.response import Response
from goproxyai.limits.request_memory import HeldBytes, Holding
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.replay import Replay, ReplayWatch
from goproxyai.proxy.resume import ResumedForward
from goproxyai.proxy.shared_body import SharedBody
from goproxyai.proxy.subscriber import Subscriber
from goproxyai.telemetry.outcome import RequestOutcome


def restart(
    context: ProxyContext,
    detached: list[Subscriber],
    response: Response,
    body: SharedBody,
    request_body: HeldBytes | None,
) -> None:
    """Continue *detached* with their own upstream requests, since *body* is kept no longer.

    :param response: the response whose beginning they have received.
    :param request_body: of all of them; ``None`` where each has its own.
    """
    detached.sort(key=lambda subscriber: subscriber.position)
    progress = body.digests([subscriber.position for subscriber in detached])
    for subscriber, (size, digest) in zip(detached, progress, strict=True):
        subscriber.leave_streams()
        ResumedForward(
            context,
            subscriber.exchange,
            subscriber.client,
            subscriber.miss.plan,
            subscriber.cache,
            response,
            size,
            digest,
            subscriber.first_byte_seconds,
            request_body,
        ).start()


def replay_rest(
    context: ProxyContext,
    behind: list[tuple[Subscriber, RequestOutcome]],
    pieces: SharedBody,
    body: bytes,
    entry: Entry | None,
) -> None:
    """Write the rest of a complete *body* to each subscriber, at its own pace.

    The body is counted as memory in progress until the last subscriber is done: from now on if it
    is not stored, or else from the time when the cache removes *entry*.

    :param behind: the subscribers, with the outcome of a complete response.
    :param entry: in which *body* is stored, if it is.
    """
    left = len(behind)
    holding = Holding(context.memory)
    if left and entry is None:
        holding.hold(len(body))

    def done() -> None:
        nonlocal left
        left -= 1
        if not left:
            holding.hold(0)

    behind.sort(key=lambda each: each[0].position)
    offsets = pieces.offsets([subscriber.position for subscriber, _ in behind])
    for (subscriber, outcome), offset in zip(behind, offsets, strict=True):
        exchange = subscriber.exchange
        replay = Replay(exchange, body, offset)
        ended = done if entry is None else context.replayed.begin(entry, replay)
        watch = ReplayWatch(
            context, exchange, subscriber.client, outcome, subscriber.streams, ended
        )
        watch.start(replay)
        subscriber.leave_streams()  # the replay counts the stream
