"""The collaborators that the steps of the proxy share."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime

from goproxyai.cache.replayed_entries import ReplayedEntries
from goproxyai.cache.store import Store
from goproxyai.egress.treq_client import RelayClient
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.proxy.bypass_warning import BypassWarning
from goproxyai.proxy.cache_lookup import CacheLookup
from goproxyai.proxy.open_tunnels import OpenTunnels
from goproxyai.proxy.request_plan import ProxyOptions
from goproxyai.proxy.upstreams import Upstreams
from goproxyai.state.shared_state import NO_SHARED_STATE, SharedState
from goproxyai.telemetry.access_log import AccessLog
from goproxyai.telemetry.counters import Counters
from goproxyai.upstream.retries import RetryBudget


@attrs.define(eq=False)
class OptionsHolder:
    """Holds the options of the requests to come, so that a reload can replace them."""

    current: ProxyOptions


@attrs.frozen(eq=False)
class ProxyContext:
    """What the steps of the proxy work with.

    :ivar seconds: the monotonic clock, in seconds.
    :ivar budget: the retry budget of all requests.
    :ivar client: sends requests to upstreams.
    :ivar memory: the budget of requests and responses in progress.
    :ivar replayed: the entries that are being replayed.
    :ivar tunnels: the open ones.
    :ivar bypass_warning: warns about a header that makes most requests bypass the cache.
    :ivar shared: what the processes of one service share.
    """

    clock: IReactorTime
    seconds: Callable[[], float]
    options: OptionsHolder
    store: Store
    lookup: CacheLookup
    upstreams: Upstreams
    client: RelayClient
    budget: RetryBudget
    counters: Counters
    access_log: AccessLog
    memory: RequestMemory
    replayed: ReplayedEntries
    bypass_warning: BypassWarning
    tunnels: OpenTunnels
    shared: SharedState = NO_SHARED_STATE
