-- The load of bench/quick.py: one request, the same each time, handed over in the environment
-- so that its probes send the very bytes that wrk does. There is no response() here: it would
-- cost wrk more than the daemon costs; done() runs once, after the clock has stopped.
wrk.method = "POST"
wrk.body = os.getenv("BENCH_BODY")
for name, value in os.getenv("BENCH_HEADERS"):gmatch("([^:\n]+): ([^\n]+)") do
    wrk.headers[name] = value
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        "BENCH duration=%d requests=%d bytes=%d connect=%d read=%d write=%d status=%d timeout=%d\n",
        summary.duration, summary.requests, summary.bytes,
        errors.connect, errors.read, errors.write, errors.status, errors.timeout
    ))
end
