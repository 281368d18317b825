"""Alert rules, Grafana dashboard and docs/reference/metrics.md agree with the scraped daemon.

A real Prometheus scrapes a daemon under load; the counts of its clients and of the fake upstream
are the expected values of the metrics.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.threads import deferToThread

from goproxyai.errors import OWNER
from goproxyai.proxy.relayed_routes import RELAYED
from goproxyai.telemetry.counters import MAX_OUTCOMES, ROUTES
from goproxyai.usage import prices
from goproxyai.usage.totals import KINDS, MAX_MODELS
from tests.e2e.prometheus.load import LIMITED, ClientCounts, plan_requests, run_load
from tests.e2e.prometheus.processes import Labels, Prometheus, is_installed, promtool, require
from tests.e2e.prometheus.upstream import Billing, UsageTotals, script_upstream
from tests.process.daemon_process import FEW_CONNECTIONS, DaemonProcess, command
from tests.support.harness import ProxyHarness, post, request
from tests.support.ports import free_port
from tests.support.serving import loopback
from tests.support.upstream import FakeUpstream

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus-alerts.yml"
CONFIG = DEPLOY / "prometheus.yml"
DASHBOARD = DEPLOY / "grafana-dashboard.json"
METRICS = ROOT / "docs" / "reference" / "metrics.md"
ALERTS_TEST = Path(__file__).parent / "prometheus" / "alerts_test.yml"

WITH_STATE_URL = {"goproxyai_state_up", "goproxyai_state_circuit_opened_total"}
"""Metrics of the alerts that the scraped daemon does not have; see ``test_shared_state.py``."""

REQUESTS = "goproxyai_requests_total"
UPSTREAMS = ("goproxyai_circuit_open", "goproxyai_circuit_opened_total")
TOKEN = "admin-token"
PRICES = {
    "gpt-4o": {"prompt": 2.5, "cached": 1.25, "completion": 10},
    "gpt-4o-mini": {"prompt": 0.15, "completion": 0.6},
    "text-embedding-3-small": {"prompt": 0.02},
}
VARIABLES = {"$__rate_interval": "30s", "$__range": "1h", "$job": ".*", "$instance": ".*"}
METRIC = re.compile(r"\b(?:goproxyai|process)_[a-z0-9_]+\b")
RECORDED = re.compile(r"\bgoproxyai:[a-z0-9_:]+")


def with_token(directory: Path) -> str:
    """The example configuration with its commented-out lines for a token enabled.

    The token's file is in *directory*.
    """
    token = directory / "token"
    token.write_text(TOKEN)
    comment = r"(?m)^(    )#(?=(authorization|  type|  credentials_file):)"
    text = re.sub(comment, r"\1", CONFIG.read_text())
    assert text.count("credentials_file: ") == 1
    return text.replace("/etc/prometheus/goproxyai.token", str(token))


def expressions() -> list[str]:
    """All queries of the dashboard, with Grafana's variables replaced."""
    document = json.loads(DASHBOARD.read_text())
    found = [each["expr"] for panel in document["panels"] for each in panel.get("targets", ())]
    found += [each["expr"] for each in document["annotations"]["list"] if "expr" in each]
    for name, value in VARIABLES.items():
        found = [each.replace(name, value) for each in found]
    return found


# The rules and the configuration.


def test_promtool_accepts_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES)


@pytest.mark.parametrize("token", [False, True], ids=["unchanged", "with a token"])
def test_promtool_accepts_configuration(tmp_path: Path, token: bool) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text(with_token(tmp_path) if token else CONFIG.read_text())
    (tmp_path / RULES.name).write_bytes(RULES.read_bytes())
    assert "rule files found" in promtool("check", "config", config)


def test_alerts_pass_their_promtool_tests() -> None:
    assert "SUCCESS" in promtool("test", "rules", ALERTS_TEST)


def test_every_alert_has_a_promtool_test_and_a_description() -> None:
    text, promtool_tests = RULES.read_text(), ALERTS_TEST.read_text()
    alerts = re.split(r"(?m)^      - (?=alert: )", text)[1:]
    assert len(alerts) >= 20
    for alert in alerts:
        (name,) = re.findall(r"alert: (\w+)", alert)
        assert f'alertname="{name}"' in promtool_tests
        for key in ("for", "severity", "summary", "description"):
            assert re.search(rf"(?m)^ +{key}: \S", alert), (name, key)


def test_recording_rules_are_unique_and_all_used_ones_exist() -> None:
    text = RULES.read_text()
    recorded = re.findall(r"- record: (\S+)", text)
    assert len(recorded) == len(set(recorded))
    assert set(RECORDED.findall(text)) == set(recorded)


# The dashboard.


def test_dashboard_is_portable_and_has_no_overlapping_panels() -> None:
    document = json.loads(DASHBOARD.read_text())
    assert document["id"] is None
    assert document["schemaVersion"] >= 39
    variables = {each["name"] for each in document["templating"]["list"]}
    assert variables == {"datasource", "job", "instance"}
    numbers = [panel["id"] for panel in document["panels"]]
    assert len(numbers) == len(set(numbers))
    occupied = set()
    for panel in document["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not occupied & cells, panel["title"]
        occupied |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"
            for target in panel["targets"]:
                assert target["datasource"]["uid"] == "${datasource}"
                assert 'instance=~"$instance"' in target["expr"]


# The scraped daemon.


@attrs.define(eq=False)
class ScrapedDaemon:
    """The state after the load.

    :ivar counts: of the clients.
    :ivar api: the fake upstream's API, with its counts.
    :ivar upstream_requests: the number of requests that the upstream received.
    :ivar at: Unix time of the first scrape after the load.
    :ivar samples: of that scrape.
    """

    prometheus: Prometheus
    counts: ClientCounts
    api: Billing
    upstream_requests: int
    at: float
    samples: list[tuple[Labels, float]]

    def by(self, name: str, *labels: str, **matching: str) -> dict[Any, float]:
        """The sums of a metric by *labels*, over the series whose labels match."""
        sums: Counter[Any] = Counter()
        for series, value in self.samples:
            if series["__name__"] == name and matching.items() <= series.items():
                key = tuple(series[each] for each in labels)
                sums[key[0] if len(key) == 1 else key] += value
        return dict(sums)

    def one(self, name: str, **matching: str) -> float:
        """The sum of a metric over the series whose labels match."""
        return sum(self.by(name, **matching).values())


@attrs.frozen
class RunningPrometheus:
    """A running Prometheus and the port at which it scrapes the daemon."""

    prometheus: Prometheus
    directory: Path
    port: int


@pytest.fixture(scope="module", autouse=True)
def started_prometheus(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningPrometheus | None]:
    """Start Prometheus before the first test, because it scrapes nothing for its first 5 s."""
    if not is_installed("prometheus"):
        yield None
        return
    directory, port = tmp_path_factory.mktemp("monitoring"), free_port()
    config = directory / "prometheus.yml"
    config.write_text(
        with_token(directory)
        .replace("localhost:8081", f"127.0.0.1:{port}")
        .replace("interval: 15s", "interval: 1s")
    )
    (directory / RULES.name).write_bytes(RULES.read_bytes())
    prometheus = Prometheus(directory, config, free_port())
    yield RunningPrometheus(prometheus, directory, port)
    prometheus.end()


@pytest.fixture(scope="module")
def running_prometheus(started_prometheus: RunningPrometheus | None) -> RunningPrometheus:
    """The started Prometheus; skips the test if it is not installed."""
    require("prometheus")
    assert started_prometheus is not None
    return started_prometheus


@pytest_twisted.async_yield_fixture(scope="module")
async def scraped_daemon(running_prometheus: RunningPrometheus) -> AsyncIterator[ScrapedDaemon]:
    """A daemon after 2,000 requests and a scrape."""
    from twisted.internet import reactor

    prometheus, port = running_prometheus.prometheus, running_prometheus.port
    upstream = FakeUpstream(reactor)
    api = script_upstream(upstream)
    where = await upstream.listen(loopback(reactor))
    (running_prometheus.directory / "prices.json").write_text(json.dumps(PRICES))
    daemon = DaemonProcess(
        running_prometheus.directory,
        command(),
        {
            "LISTEN": f"tcp:{port}:interface=127.0.0.1", "MAX_CONNECTIONS": FEW_CONNECTIONS,
            "OPENAI_API_URL": f"http://127.0.0.1:{where}", "PRICES": "prices.json",
            "ADMIN_ALLOW": "", "ADMIN_TOKEN": TOKEN, "RATE_LIMIT": "60",
        },
    )  # fmt: skip
    try:
        await deferToThread(daemon.listening)
        await deferToThread(prometheus.until, lambda: prometheus.query("up == 1") != [])
        planned_requests, counts, at = plan_requests(), ClientCounts(), 0.0
        # rate() needs two scrapes with the series.
        for part in (planned_requests[:1000], planned_requests[1000:]):
            counts.add(await deferToThread(run_load, port, part))
            at = await deferToThread(scraped_after, prometheus, time.time())
        samples = prometheus.query('{job="goproxyai"}', at)
        yield ScrapedDaemon(prometheus, counts, api, len(upstream.requests), at, samples)
    finally:
        daemon.kill()
        await upstream.close()


def scraped_after(prometheus: Prometheus, end: float) -> float:
    """The time of the first scrape after *end* that found no request in flight except itself."""
    at = 0.0

    def settled() -> bool:
        nonlocal at
        ((_, at),) = prometheus.query("timestamp(goproxyai_requests_in_flight)")
        return at > end and prometheus.query("goproxyai_requests_in_flight == 1", at) != []

    prometheus.until(settled)
    return at


def test_requests_total_equals_clients_counts(scraped_daemon: ScrapedDaemon) -> None:
    counted = scraped_daemon.by("goproxyai_requests_total", "route", "method", "status", "cache")
    scrapes = counted.pop(("/metrics", "GET", "200", "-"))
    assert counted == scraped_daemon.counts.requests
    assert sum(counted.values()) == len(plan_requests())
    ((_, count),) = scraped_daemon.prometheus.query("sum_over_time(up[1h])", scraped_daemon.at)
    assert scrapes == count - 1, "a scrape does not count itself"


def test_load_has_every_cache_outcome_and_status(scraped_daemon: ScrapedDaemon) -> None:
    caches = {key[3] for key in scraped_daemon.counts.requests}
    assert caches == {"HIT", "MISS", "COALESCED", "-", "method", "path", "range", "header",
                      "no-store"}  # fmt: skip
    statuses = {key[2] for key in scraped_daemon.counts.requests}
    assert statuses >= {"200", "400", "401", "403", "404", "405", "429", "500", "502", "504", "508"}
    assert scraped_daemon.counts.cut == 6
    assert scraped_daemon.counts.left == 4


def test_body_bytes_equal_clients_counts(scraped_daemon: ScrapedDaemon) -> None:
    ((_, scrape_bytes),) = scraped_daemon.prometheus.query(
        "sum_over_time(scrape_body_size_bytes[1h]) - scrape_body_size_bytes", scraped_daemon.at
    )
    counted = scraped_daemon.by("goproxyai_body_bytes_total", "way")
    assert counted == {
        "in": scraped_daemon.counts.bytes_in,
        "out": scraped_daemon.counts.bytes_out + scrape_bytes,
    }


def test_errors_and_unfinished_answers_equal_clients_counts(scraped_daemon: ScrapedDaemon) -> None:
    counts = scraped_daemon.counts
    counted = {
        code: n for code, n in scraped_daemon.by("goproxyai_errors_total", "code").items() if n
    }
    cut = sum(counted.values()) - sum(counts.errors.values())
    assert cut == counts.cut, "a truncated answer has a code that the client does not get"
    upstreams = {code for code in counted if OWNER.get(code) == "upstream"}
    assert {k: v for k, v in counted.items() if k not in upstreams} == {
        k: v for k, v in counts.errors.items() if k not in upstreams
    }
    assert scraped_daemon.one("goproxyai_limited_total") == counts.errors[LIMITED] > 0
    assert scraped_daemon.by("goproxyai_unfinished_total", "by") == {
        "client": counts.left, "upstream": counts.cut
    }  # fmt: skip


def test_cache_and_upstream_metrics_equal_counts(scraped_daemon: ScrapedDaemon) -> None:
    requests = scraped_daemon.counts.requests
    counted = scraped_daemon.by("goproxyai_cache_requests_total", "outcome")
    caches: Counter[str] = Counter()
    for (*_, cache), number in requests.items():
        caches[cache if cache in ("HIT", "MISS", "COALESCED", "-") else "bypass"] += number
    assert counted["hit"] == caches["HIT"]
    assert counted["bypass"] == caches["bypass"]
    # A subscriber to an answer that turns out unshareable counts as coalesced but ends as a miss.
    assert counted["coalesced"] >= caches["COALESCED"] > 0
    assert counted["miss"] + counted["coalesced"] == caches["MISS"] + caches["COALESCED"]
    assert counted["stale_if_error"] == 0
    assert scraped_daemon.one("goproxyai_forwarded_total") == scraped_daemon.upstream_requests
    times = scraped_daemon.by("goproxyai_request_seconds_count", "cache")
    assert times["hit"] == caches["HIT"]
    assert times["none"] == caches["-"] + scraped_daemon.one(
        "goproxyai_requests_total", route="/metrics"
    )
    unanswered = sum(n for (_, _, status, _), n in requests.items() if status == "502")
    answered = caches["MISS"] + caches["bypass"] - unanswered
    for name in ("first_byte", "upstream", "overhead"):
        assert scraped_daemon.one(f"goproxyai_{name}_seconds_count") == answered
    assert scraped_daemon.one("goproxyai_open_streams") == 0


def test_tokens_and_cost_equal_upstream_counts(scraped_daemon: ScrapedDaemon) -> None:
    def tokens_from(source: str) -> UsageTotals:
        return Counter(scraped_daemon.by("goproxyai_tokens_total", "model", "kind", source=source))

    api, counts = scraped_daemon.api, scraped_daemon.counts
    assert tokens_from("upstream") == api.sold
    assert tokens_from("cache") == counts.saved
    assert scraped_daemon.by("goproxyai_answers_without_usage_total", "why") == {
        "silent": api.without_usage, "cut": counts.cut, "left": counts.left
    }  # fmt: skip
    for source, tokens in (
        ("upstream", api.sold),
        ("cache", counts.saved),
    ):
        cost = sum(price_of(model, tokens) for model in PRICES)
        assert scraped_daemon.one("goproxyai_cost_total", source=source) == pytest.approx(
            cost, rel=1e-9
        )


def price_of(model: str, tokens: UsageTotals) -> float:
    price = PRICES[model]
    prompt, cached = tokens[model, "prompt"], tokens[model, "cached"]
    return (
        (prompt - cached) * price["prompt"]
        + cached * price.get("cached", price["prompt"])
        + tokens[model, "completion"] * price.get("completion", 0)
    ) / 1e6


def test_rules_are_healthy_and_no_alert_fires(scraped_daemon: ScrapedDaemon) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = scraped_daemon.prometheus.api("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    scraped_daemon.prometheus.until(lambda: all(rule["health"] != "unknown" for rule in rules()))
    assert [
        (rule["name"], rule.get("lastError")) for rule in rules() if rule["health"] != "ok"
    ] == []
    assert len(rules()) == len(re.findall(r"- (?:record|alert): ", RULES.read_text()))
    firing = [rule["name"] for rule in rules() if rule.get("state") == "firing"]
    assert firing == []
    recorded = [rule["name"] for rule in rules() if rule["type"] == "recording"]
    scraped_daemon.prometheus.until(lambda: all(map(scraped_daemon.prometheus.query, recorded)))


def test_dashboard_queries_have_results(scraped_daemon: ScrapedDaemon) -> None:
    empty = [each for each in expressions() if not scraped_daemon.prometheus.query(each)]
    assert empty == ['changes(process_start_time_seconds{job=~".*",instance=~".*"}[30s]) > 0']


def test_metrics_in_rules_and_dashboard_exist(scraped_daemon: ScrapedDaemon) -> None:
    names = {series["__name__"] for series, _ in scraped_daemon.samples}
    for text in (RULES.read_text(), " ".join(expressions())):
        assert set(METRIC.findall(text)) <= names | WITH_STATE_URL


def test_promtool_accepts_metrics(scraped_daemon: ScrapedDaemon) -> None:
    target = scraped_daemon.prometheus.api("targets")["activeTargets"][0]
    connection = HTTPConnection(target["labels"]["instance"], timeout=20)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    text = connection.getresponse().read()
    connection.close()
    assert promtool("check", "metrics", given=text) == ""


def test_documented_queries_have_results(scraped_daemon: ScrapedDaemon) -> None:
    queries = re.findall(r"(?s)```promql\n(.*?)```", METRICS.read_text("utf-8"))
    assert len(queries) >= 10
    for query in queries:
        assert scraped_daemon.prometheus.query(re.sub(r"\[\w+\]", "[1h]", query)), query


# docs/reference/metrics.md.


def table(part: str) -> list[list[str]]:
    """The cells of a table of the document, without its header."""
    text = METRICS.read_text("utf-8")
    lines = text.partition(f"<!-- {part}: begin -->\n")[2].partition("<!--")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


@attrs.define
class Metric:
    """A metric: its type, the number of its series, and its labels with their values."""

    kind: str
    series: int = 0
    labels: dict[str, set[str]] = attrs.field(factory=dict)


@pytest_twisted.async_yield_fixture
async def metrics(harness: ProxyHarness) -> AsyncIterator[dict[str, Metric]]:
    """All metrics of a daemon that has served a priced completion."""
    harness.upstream.api = Billing()
    await harness.start()
    assert harness.daemon is not None
    harness.daemon.context.counters.tokens.prices = prices.parse(json.dumps(PRICES).encode())
    await harness.ask(post("/v1/completions", b'{"model":"gpt-4o","prompt":"a"}'))
    text = (await harness.ask(request("/metrics"))).body.decode()
    found: dict[str, Metric] = {}
    for family in text_string_to_metric_families(text):
        name = family.name + "_total" * (family.type == "counter")
        one = found[name] = Metric(family.type)
        for sample in family.samples:
            for label, value in sample.labels.items():
                one.labels.setdefault(label, set()).add(value)
            one.series += 1
        one.labels.pop("le", None)
    yield found


def test_document_has_exactly_the_metrics(metrics: dict[str, Metric]) -> None:
    rows = table("metrics")
    documented = {name.strip("`"): (kind, words(labels)) for name, kind, labels, _ in rows}
    assert len(documented) == len(rows)
    assert documented == {name: (one.kind, set(one.labels)) for name, one in metrics.items()}
    assert all(meaning for *_, meaning in rows)


def test_document_has_every_label_value(metrics: dict[str, Metric]) -> None:
    sets = {
        (label.strip("`"), of.strip("`")): words(values) for label, of, values in table("labels")
    }
    unlimited = {"status", "version", "upstream", "model"}
    labelled = {(label, name) for name, one in metrics.items() for label in one.labels}
    assert set(sets) == {pair for pair in labelled if pair[0] not in unlimited}
    for (label, name), values in sets.items():
        seen = metrics[name].labels[label]
        assert seen <= values
        # All other metrics have a series for each value from the start.
        if (label, name) not in {
            ("route", REQUESTS), ("method", REQUESTS), ("cache", REQUESTS),
            ("kind", "goproxyai_tokens_total"),
        }:  # fmt: skip
            assert seen == values, (label, name)
    assert sets["kind", "goproxyai_tokens_total"] == set(KINDS)
    assert sets["route", REQUESTS] == {*ROUTES, "other"}
    assert sets["method", REQUESTS] == {*RELAYED.methods, "other"}


def test_document_has_maximum_number_of_series(metrics: dict[str, Metric]) -> None:
    text = METRICS.read_text("utf-8")
    assert f"at most {MAX_OUTCOMES} combinations" in text
    assert f"{MAX_MODELS} models" in text
    assert f"({(MAX_MODELS + 1) * len(KINDS) * 2} series of tokens)" in text
    grow = (REQUESTS, "goproxyai_tokens_total", *UPSTREAMS)
    fixed = sum(one.series for name, one in metrics.items() if name not in grow)
    assert f"The other metrics have {fixed} series, and two for each upstream." in " ".join(
        text.split()
    )
    assert all(metrics[name].series == 1 for name in UPSTREAMS)


def test_scraped_label_values_are_documented(scraped_daemon: ScrapedDaemon) -> None:
    sets = {
        (label.strip("`"), of.strip("`")): words(values) for label, of, values in table("labels")
    }
    seen = [(label, series["__name__"], value) for series, _ in scraped_daemon.samples
            for label, value in series.items() if (label, series["__name__"]) in sets]  # fmt: skip
    assert len(seen) > 100
    assert [each for each in seen if each[2] not in sets[each[0], each[1]]] == []
