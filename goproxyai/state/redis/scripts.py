"""Lua scripts: each is one round trip, and no other command runs in between.

``EVALSHA`` names a script by its SHA-1. A server that does not know the script, after a restart or
a failover, gets its text once by ``EVAL``.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

import attrs


@attrs.frozen
class Script:
    """A script.

    :ivar kind: one of :data:`.counts.KINDS`.
    :ivar digest: hexadecimal SHA-1 of the text.
    """

    kind: str
    text: str = attrs.field(repr=False)
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
