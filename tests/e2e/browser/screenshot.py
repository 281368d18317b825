"""Take the dashboard's screenshots for the documentation.

``python -m tests.e2e.browser.screenshot docs/dashboard.png docs/dashboard-dark.png``

The daemon serves real traffic for some minutes. In the last of them, upstream refuses a part of the
requests with 429 and 401.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from examples.demo.daemon import CHECKOUT, Daemon
from tests.e2e.browser.chromium import launch
from tests.e2e.browser.upstream import Upstream

TRAFFIC_SECONDS = 330
"""Slightly more than the time range of the pictures, which is five minutes."""

OUTAGE_SECONDS = 75
REFUSED_SHARE = 0.55
"""Share of the requests to upstream that are refused in the outage."""

CLIENTS = 14
ADDRESSES = (1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 7)
"""The last number of each client's address."""

PEAK_RATE = 3.0
"""Requests a second of each client at the peak load."""

MODELS = ("gpt-4o-mini", "gpt-4o-mini", "gpt-4o-mini", "gpt-4o", "o4-mini")
QUESTIONS = 900
"""Number of different questions; the first ones are the most frequent."""

PRICES = {
    "gpt-4o-mini": {"prompt": 0.15, "cached": 0.075, "completion": 0.60},
    "gpt-4o": {"prompt": 2.50, "cached": 1.25, "completion": 10.00},
    "o4-mini": {"prompt": 1.10, "cached": 0.275, "completion": 4.40},
    "text-embedding-3-small": {"prompt": 0.02},
}

DESKTOP, PHONE = {"width": 1280, "height": 1460}, {"width": 390, "height": 1100}

SETTINGS = {
    "RATE_LIMIT": "330",
    "CACHE_TTL": "2m",
    "ADMIN_ALLOW": "127.0.0.0/8",
    "TRUSTED_PROXIES": "127.0.0.0/8",
    "PYTHONPATH": str(CHECKOUT),
}


class Client(threading.Thread):
    """Sends random requests until *ended* is set."""

    def __init__(self, root: str, seed: int, ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self._address = root.removeprefix("http://")
        self._random = random.Random(seed)
        self._ended = ended
        self._client = f"10.0.3.{ADDRESSES[seed]}"
        self._began = time.monotonic()

    def run(self) -> None:
        while not self._ended.wait(self._random.expovariate(PEAK_RATE * self._load())):
            method, path, document = self._next()
            connection = HTTPConnection(self._address, timeout=30)
            try:
                body = None if document is None else json.dumps(document)
                headers = {"Content-Type": "application/json", "X-Forwarded-For": self._client}
                connection.request(method, path, body, headers)
                connection.getresponse().read()
            except (OSError, HTTPException):
                pass  # the daemon stops before the clients
            finally:
                connection.close()

    def _load(self) -> float:
        """Return the current share of the peak rate."""
        passed = (time.monotonic() - self._began) / TRAFFIC_SECONDS
        return 0.55 + 0.35 * math.sin(9 * passed) + 0.1 * math.sin(41 * passed)

    def _question(self) -> str:
        return f"question {min(int(self._random.expovariate(1 / 160)), QUESTIONS)}"

    def _next(self) -> tuple[str, str, Any]:
        choice = self._random.random()
        if choice < 0.66:
            return "POST", "/v1/chat/completions", self._chat(False)
        if choice < 0.72:
            return "POST", "/v1/chat/completions", self._chat(True)
        if choice < 0.92:
            document = {"model": "text-embedding-3-small", "input": self._question()}
            return "POST", "/v1/embeddings", document
        if choice < 0.96:
            return "GET", "/v1/models", None
        return "GET", f"/v1/models/{self._random.choice(MODELS)}", None

    def _chat(self, stream: bool) -> Any:
        question = self._question()
        number = int(question.split()[1])
        document = {
            "model": MODELS[number % len(MODELS)],
            "messages": [{"role": "user", "content": question * (1 + number % 5)}],
            "max_tokens": 300 + 10 * (number % 90),
            "temperature": 0,
        }
        return {**document, "stream": True, "pause": 0.6} if stream else document


def response_delay(source: random.Random) -> Callable[[], float]:
    """Return a function that draws seconds from a distribution with a long tail."""
    return lambda: min(0.4, source.lognormvariate(math.log(0.025), 0.6))


def outage(source: random.Random) -> list[int]:
    """Return the statuses of upstream's answers in the outage, more than are needed."""
    statuses = (429, 429, 401)
    return [
        source.choice(statuses) if source.random() < REFUSED_SHARE else 0 for _ in range(100_000)
    ]


def take(root: str, desktop: str, phone: str) -> None:
    with launch() as browser:
        for path, size, scheme in ((desktop, DESKTOP, "light"), (phone, PHONE, "dark")):
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(f"{root}/dashboard")
            page.locator("#connection[data-kind=good]").wait_for()
            page.get_by_label("5 min", exact=True).check()
            page.locator("#causes tbody tr").first.wait_for()
            page.locator("#live tbody tr").first.wait_for()
            page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, **size})
            page.close()


def main(desktop: str, phone: str) -> None:
    upstream = Upstream(response_delay(random.Random(1)))
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as name:
        prices = Path(name) / "prices.json"
        prices.write_text(json.dumps(PRICES))
        own = {"OPENAI_API_URL": upstream.url, "PRICES": str(prices)}
        daemon = Daemon(Path(name), {**SETTINGS, **own})
        try:
            daemon.start()
            daemon.wait_until_listening()
            clients = [Client(daemon.root, seed, ended) for seed in range(CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(TRAFFIC_SECONDS - OUTAGE_SECONDS)
            upstream.refusals = outage(random.Random(2))
            time.sleep(OUTAGE_SECONDS)
            take(daemon.root, desktop, phone)
        finally:
            ended.set()
            daemon.kill()
            upstream.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
