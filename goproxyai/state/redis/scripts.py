"""Lua scripts: each is one round trip, and no other command runs in between.

``EVALSHA`` names a script by its SHA-1. A server that does not know the script, after a restart or
a failover, gets its text once by ``EVAL``. That changes the order of commands, so that a script
which later commands rely on is always sent as text.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

import attrs


@attrs.frozen
class Script:
    """A script.

    :ivar kind: one of :data:`.counts.KINDS`.
    :ivar keeps_order: whether later commands, also of other processes, must find what the script
        has done.
    :ivar digest: hexadecimal SHA-1 of the text.
    """

    kind: str
    text: str = attrs.field(repr=False)
    keeps_order: bool = False
    digest: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        digest = sha1(self.text.encode("ascii"), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)


UNITS_PER_TOKEN: Final = 60_000
"""A bucket of one token per minute gains one unit per millisecond."""

SHARES: Final = 4
"""A grant is at most this part of what is left in the bucket, but at least a token. So little is
unused in one process when the bucket is nearly empty; the number of processes is unknown."""

_BUCKET: Final = f"""
local unit, rate = {UNITS_PER_TOKEN}, tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function keep(key, used)
    if used > 0 then
        local value = string.format('%.0f %.0f', used, now)
        redis.call('SET', key, value, 'PX', math.ceil(used / rate) + 1000)
    else
        redis.call('DEL', key)
    end
end
local function used_of(key)
    local used, at = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
    if not used then return 0 end
    used, at = math.min(tonumber(used), unit * rate), tonumber(at)
    if now < at then keep(key, used) end
    return math.max(0, used - math.max(0, now - at) * rate)
end
"""
"""A bucket is the units that were taken from a full one, and the time, in milliseconds of the
server's clock. A full bucket is equal to none, so that the key expires. Numbers are exact, because
a bucket has at most 6e13 units. A clock that is set back mints nothing."""

LEASE: Final = Script(
    "lease",
    _BUCKET
    + f"""
local used = used_of(KEYS[1])
local left = math.floor((unit * rate - used) / unit)
local granted = math.min(tonumber(ARGV[2]), math.max(1, math.floor(left / {SHARES})), left)
if granted < 1 then
    return {{0, math.max(1, math.ceil((used - unit * (rate - 1)) / rate))}}
end
keep(KEYS[1], used + granted * unit)
return {{granted, 0}}
""",
)
"""Takes tokens of a client: ``KEYS`` bucket; ``ARGV`` tokens per minute, tokens wanted.

Returns the granted tokens, and the milliseconds until there is a token if none was granted.
"""

PUT_BACK: Final = Script(
    "put_back",
    _BUCKET
    + """
for index, key in ipairs(KEYS) do
    local used = used_of(key)
    if used > 0 then keep(key, math.max(0, used - unit * tonumber(ARGV[index + 1]))) end
end
return 1
""",
)
"""Gives tokens back: ``KEYS`` buckets; ``ARGV`` tokens per minute, and tokens for each bucket."""

_EPOCHS: Final = """
local function epochs()
    local found = {}
    for index = 3, 5 do found[#found + 1] = redis.call('GET', KEYS[index]) or '' end
    return table.concat(found, ' ')
end
local function end_claim(payload)
    if ARGV[1] == '' then return end
    local claim = redis.call('GET', KEYS[2]) or '+' .. ARGV[1]
    local mark, token = string.match(claim, '^(%+?)(%S+)')
    if token == ARGV[1] then
        redis.call('DEL', KEYS[2])
        if mark == '+' then redis.call('PUBLISH', ARGV[2], payload) end
    elseif mark == '' then
        redis.call('SET', KEYS[2], '+' .. claim, 'KEEPTTL')
    end
end
"""
"""Look-ups may wait for a claim that has expired, was evicted or is lost. Its end is told at once,
or with the end of the claim that another process has meanwhile."""


LOOK_UP: Final = Script(
    "look_up",
    """
local found = {}
for index = 3, 5 do
    local epoch = redis.call('GET', KEYS[index])
    if not epoch then
        epoch = ARGV[1]
        redis.call('SET', KEYS[index], epoch, 'PX', ARGV[4])
    elseif redis.call('PTTL', KEYS[index]) < ARGV[4] / 2 then
        redis.call('PEXPIRE', KEYS[index], ARGV[4])
    end
    found[#found + 1] = epoch
end
local epochs = table.concat(found, ' ')
if ARGV[2] == '2' then return {false, epochs, 0, 0} end
local value = redis.call('GET', KEYS[1])
if value and string.sub(value, 1, #epochs + 1) == epochs .. '\\n' then
    return {value, epochs, 0, 0}
end
if ARGV[2] == '0' then return {false, epochs, 0, 0} end
local claim = redis.call('GET', KEYS[2]) or ''
local is_waited_for = string.sub(claim, 1, 1) == '+'
if string.sub(claim, -#epochs - 1) ~= ' ' .. epochs then
    local mark = is_waited_for and '+' or ''
    redis.call('SET', KEYS[2], mark .. ARGV[1] .. ' ' .. epochs, 'PX', ARGV[3])
    return {false, epochs, 1, 0}
end
if not is_waited_for then redis.call('SET', KEYS[2], '+' .. claim, 'KEEPTTL') end
return {false, epochs, 2, redis.call('PTTL', KEYS[2])}
""",
)
"""Looks for a response: ``KEYS`` entry, claim, and the epochs of clearing, owner and path; ``ARGV``
token, whether to claim or 2 for the epochs alone, milliseconds of claims and of epochs.

An epoch is replaced by each announcement. One that is absent, because it has expired, was evicted
or is lost, is replaced too, so that no older response is found. An entry begins with the epochs of
the look-up before its upstream request.

A claim is its token and the epochs of its look-up, and begins with ``+`` if look-ups wait for it.
A claim with other epochs than the present ones is replaced: its response will not be stored. The
look-ups that wait for it wait for the new one.

Returns the entry, the epochs, and 0; or 1 with the claim, or 2 if another process has it. Last are
the milliseconds until that claim expires unless it is renewed.
"""

STORE: Final = Script(
    "store",
    _EPOCHS
    + """
local valid = epochs() == ARGV[3]
if valid then redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5]) end
end_claim(valid and ARGV[6] or ARGV[7])
return valid and 1 or 0
""",
)
"""Stores a response unless an epoch has changed, and ends a claim: ``KEYS`` as for
:data:`LOOK_UP`; ``ARGV`` token or nothing, channel, epochs, entry, milliseconds, and the messages
for those that wait: that it was stored, or not."""

END_CLAIM: Final = Script(
    "give_up",
    _EPOCHS
    + """
end_claim(ARGV[3])
return 1
""",
)
"""Ends a claim without a response: ``KEYS`` as for :data:`LOOK_UP`; ``ARGV`` token, channel,
message."""

RENEW: Final = Script(
    "renew",
    """
for index, key in ipairs(KEYS) do
    local token = string.match(redis.call('GET', key) or '', '^%+?(%S+)')
    if token == ARGV[index + 1] then redis.call('PEXPIRE', key, ARGV[1]) end
end
return 1
""",
)
"""Renews claims: ``KEYS`` claims; ``ARGV`` milliseconds, and their tokens."""

ANNOUNCE: Final = Script(
    "announce",
    """
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local number = redis.call('INCR', KEYS[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4] .. number .. ':' .. ARGV[5])
return number
""",
    keeps_order=True,
)
"""Replaces an epoch and tells the other processes: ``KEYS`` epoch, number of announcements;
``ARGV`` epoch, milliseconds, channel, kind and content of the message. Returns the number."""
