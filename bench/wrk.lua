-- The requests of wrk: the bytes before and after the part that varies. They are environment
-- variables, because the benchmark's own probes send the same bytes. There is no response(), which
-- would take more CPU time than the daemon. done() runs once, after the measurement.
local before, after = os.getenv("BENCH_BEFORE"), os.getenv("BENCH_AFTER")
local vary, variants = os.getenv("BENCH_VARY"), tonumber(os.getenv("BENCH_VARIANTS"))
local shuffle = os.getenv("BENCH_ORDER") == "shuffle"
local format, floor, random = string.format, math.floor, math.random
local sent = tonumber(os.getenv("BENCH_FIRST"))

-- The arithmetic does not depend on the number of variants, so that only the daemon's work differs.
local function variant()
    local index = shuffle and random(0, variants - 1) or sent % variants
    sent = sent + 1
    if vary == "client" then
        return format("10.%d.%d.%d", floor(index / 65536), floor(index / 256) % 256, index % 256)
    end
    return format("%07d", index)
end

if vary == "" then
    wrk.format = function() return before end  -- called once: no Lua during the measurement
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
