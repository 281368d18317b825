"""The load: one request, sent by wrk, and the checks without which a run does not count."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
DAEMON_CORE, LOAD_CORE = "0", "1"
CONNECTIONS = 32

COMPLETION = (
    '{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion",'
    '"created":1741569952,"model":"gpt-4.1-2025-04-14","choices":[{"index":0,"message":'
    '{"role":"assistant","content":"Hello! How can I assist you today?","refusal":null,'
    '"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,'
    '"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"default"}'
)
MODELS = '{"object":"list","data":[{"id":"gpt-4.1","object":"model","owned_by":"system"}]}'
QUESTION = '{"model":"gpt-4.1","messages":[{"role":"user","content":"Hello!"}]}'
HEADERS = {"Authorization": "Bearer sk-bench", "Content-Type": "application/json"}


class Failed(Exception):
    """A run that must not be counted; the text says why."""


def tool(name: str) -> str:
    """Find a program, also where Debian keeps those of the administrator."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise SystemExit(f"{name} is missing: run bench/install.sh first, as root")
    return found


def exchange(port: int, method: str, target: str, body: str = "") -> bytes:
    """One request on a connection of its own; the whole response, which must be a 200."""
    fields = {"Host": f"127.0.0.1:{port}", **HEADERS}
    if body:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
        with connection.makefile("rb") as stream:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (line := stream.readline()):
                    raise Failed(f"closed before the end of the headers: {head[:300]!r}")
                head += line
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)\r\n", head)
            if not head.startswith(b"HTTP/1.1 200 ") or length is None:
                raise Failed(f"not a 200 with a length: {head[:300]!r}")
            return head + stream.read(int(length[1]))


def probe(port: int) -> int:
    """Send the measured request once, compare the answer's body; the response's size, bytes."""
    response = exchange(port, "POST", "/v1/chat/completions", QUESTION)
    if response.partition(b"\r\n\r\n")[2] != COMPLETION.encode():
        raise Failed(f"a different body came back: {response[-700:]!r}")
    return len(response)


def requests_seen(upstream: int) -> int:
    """How many requests the upstream has answered before this one, by its own count."""
    # stub_status: three totals in a line: accepted, handled, requests.
    numbers = re.search(rb"\n (\d+) (\d+) (\d+) \n", exchange(upstream, "GET", "/status"))
    if numbers is None:
        raise Failed("the upstream's status page is not understood")
    return int(numbers[3]) - 1


def wrk(port: int, seconds: int) -> dict[str, int]:
    """Load one port from the load core; what ``load.lua`` reports at the end."""
    argv = [tool("taskset"), "-c", LOAD_CORE, tool("wrk"), "-t1", f"-c{CONNECTIONS}"]
    argv += [f"-d{seconds}s", "-s", str(HERE / "load.lua")]
    env = {"BENCH_BODY": QUESTION, "BENCH_HEADERS": "\n".join(map(": ".join, HEADERS.items()))}
    try:
        done = subprocess.run(
            [*argv, f"http://127.0.0.1:{port}/v1/chat/completions"],
            env={"PATH": os.environ.get("PATH", ""), **env},
            capture_output=True,
            text=True,
            timeout=seconds + 15,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed("wrk did not end in time") from None
    report = re.search(r"^BENCH (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or report is None or "Non-2xx" in done.stdout:
        raise Failed(f"wrk: {done.stdout[-700:]}{done.stderr[-300:]}")
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", report[1])}
