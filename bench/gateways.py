"""Two gateways that people run before several providers: they do more, and have one cell.

Both are optional: ``bench/install.sh --gateways`` fetches them, each below a directory of its own.
"""

from __future__ import annotations

import json

from bench.daemons import Command, OwnerBucket
from bench.machine import BUILD, HERE, Failed
from bench.peers import Peer, Role
from bench.wrk import SMALL, exchange

LITELLM = BUILD / "litellm" / "bin" / "litellm"
PORTKEY = BUILD / "portkey" / "node_modules" / ".bin" / "gateway"
TEXT = "Hello! How can I assist you today?"


def completes(response: bytes) -> bool:
    """Whether a response holds the completion, however its JSON is written."""
    document = json.loads(response.partition(b"\r\n\r\n")[2])
    return bool(document["choices"][0]["message"]["content"] == TEXT)


def litellm(place: OwnerBucket, _role: Role) -> Command:
    """LiteLLM's proxy with one worker, without keys of its own, a database or telemetry."""
    if not LITELLM.exists():
        raise Failed("not installed: bench/install.sh --gateways")
    text = (HERE / "conf" / "litellm.yaml").read_text().replace("@UPSTREAM@", str(place.upstream))
    config = place.directory / "litellm.yaml"
    config.write_text(text)
    argv = [str(LITELLM), "--config", str(config), "--host", "127.0.0.1"]
    argv += ["--port", str(place.port), "--num_workers", "1", "--telemetry", "False"]
    env = {
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no download at the start
    }
    return Command(argv, env)


def portkey(place: OwnerBucket, _role: Role) -> Command:
    """Portkey's gateway on Node, without its console."""
    if not PORTKEY.exists():
        raise Failed("not installed: bench/install.sh --gateways")
    return Command([str(PORTKEY), f"--port={place.port}", "--headless"])


def portkey_headers(upstream: int) -> dict[str, str]:
    """Where Portkey is told to relay to."""
    host = f"http://127.0.0.1:{upstream}/v1"
    return {"X-Portkey-Provider": "openai", "X-Portkey-Custom-Host": host}


GATEWAYS = {
    peer.name: peer
    for peer in (
        Peer(
            "litellm",
            "LiteLLM",
            litellm,
            ready=lambda port: completes(exchange(port, SMALL.one())),
            patience=90,
            optional=True,
        ),
        Peer(
            "portkey",
            "Portkey",
            portkey,
            ready=lambda port: b"200" in exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")[:15],
            patience=30,
            optional=True,
            headers=portkey_headers,
        ),
    )
}
