-- What wrk sends: the bytes before and after the part that differs from request to request, handed
-- over in the environment so that the harness's own probes send the very same. There is no
-- response(): it would cost wrk more than the daemon costs. done() runs once, after the clock has
-- stopped.
local before, after = os.getenv("BENCH_BEFORE"), os.getenv("BENCH_AFTER")
local vary, variants = os.getenv("BENCH_VARY"), tonumber(os.getenv("BENCH_VARIANTS"))
local shuffle = os.getenv("BENCH_ORDER") == "shuffle"
local format, floor, random = string.format, math.floor, math.random
local sent = tonumber(os.getenv("BENCH_FIRST"))

-- The same arithmetic whatever the number of variants, so that only the daemon's work differs.
local function variant()
    local index = shuffle and random(0, variants - 1) or sent % variants
    sent = sent + 1
    if vary == "client" then
        return format("10.%d.%d.%d", floor(index / 65536), floor(index / 256) % 256, index % 256)
    end
    return format("%07d", index)
end

if vary == "" then
    wrk.format = function() return before end  -- called once: no Lua while the clock runs
else
    function init() math.randomseed(os.time()) end
    function request() return before .. variant() .. after end
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        "BENCH duration=%d requests=%d bytes=%d connect=%d read=%d write=%d status=%d timeout=%d\n",
        summary.duration, summary.requests, summary.bytes,
        errors.connect, errors.read, errors.write, errors.status, errors.timeout
    ))
end
