"""Two AI gateways for several providers, which have more features and one row in the table.

Both are optional: ``bench/install.sh --gateways`` installs each in its own directory. Bifrost and
agentgateway are left out: no package registry has them. Bifrost's npm package downloads the program
from its vendor's server, and the package on PyPI named agentgateway is another project's.
"""

from __future__ import annotations

import json

from bench.daemons import Command, Placement
from bench.machine import BUILD, HERE, Failed
from bench.peers import Peer, Role
from bench.wrk import SMALL, exchange

LITELLM = BUILD / "litellm" / "bin" / "litellm"
PORTKEY = BUILD / "portkey" / "node_modules" / ".bin" / "gateway"
TEXT = "Hello! How can I assist you today?"


def completes(response: bytes) -> bool:
    """Whether the response has the completion, in any JSON formatting."""
    document = json.loads(response.partition(b"\r\n\r\n")[2])
    return bool(document["choices"][0]["message"]["content"] == TEXT)


def litellm(placement: Placement, _role: Role) -> Command:
    """LiteLLM's proxy with one worker, without virtual keys, a database or telemetry."""
    if not LITELLM.exists():
        raise Failed("not installed: bench/install.sh --gateways")
    text = (HERE / "conf" / "litellm.yaml").read_text().replace("@UPSTREAM@", placement.openai)
    config = placement.directory / "litellm.yaml"
    config.write_text(text)
    argv = [str(LITELLM), "--config", str(config), "--host", "127.0.0.1"]
    argv += ["--port", str(placement.port), "--num_workers", "1", "--telemetry", "False"]
    env = {
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # avoids a download at the start
        **placement.env,
    }
    return Command(argv, env)


def portkey(placement: Placement, _role: Role) -> Command:
    """Portkey's gateway on Node, without its console."""
    if not PORTKEY.exists():
        raise Failed("not installed: bench/install.sh --gateways")
    env = {"NODE_EXTRA_CA_CERTS": str(placement.files.root)} if placement.tls else {}
    return Command([str(PORTKEY), f"--port={placement.port}", "--headless"], env)


def portkey_headers(upstream: str) -> dict[str, str]:
    """The headers that select Portkey's upstream."""
    return {"X-Portkey-Provider": "openai", "X-Portkey-Custom-Host": f"{upstream}/v1"}


GATEWAYS = {
    peer.name: peer
    for peer in (
        Peer(
            "litellm",
            "LiteLLM",
            litellm,
            ready=lambda port: completes(exchange(port, SMALL.one())),
            timeout=90,
            optional=True,
        ),
        Peer(
            "portkey",
            "Portkey",
            portkey,
            ready=lambda port: b"200" in exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")[:15],
            timeout=30,
            optional=True,
            headers=portkey_headers,
        ),
    )
}
