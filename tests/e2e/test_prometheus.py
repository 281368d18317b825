"""What is there for Prometheus and Grafana fits the daemon, as both of them see it."""

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
from tests.e2e.prometheus.load import LIMITED, Books, drive, plan
from tests.e2e.prometheus.upstream import Billing, UsageTotals, rehearse
from tests.e2e.prometheus.watch import Labels, Prometheus, is_there, program, promtool
from tests.process.daemon_process import FEW_CONNECTIONS, DaemonProcess, command
from tests.process.test_twistd import free_port
from tests.support.harness import ProxyHarness, post, request
from tests.support.serving import loopback
from tests.support.upstream import FakeUpstream

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus-alerts.yml"
CONFIG = DEPLOY / "prometheus.yml"
DASHBOARD = DEPLOY / "grafana-dashboard.json"
METRICS = ROOT / "docs" / "metrics.md"
ALERTS_TEST = Path(__file__).parent / "prometheus" / "alerts_test.yml"

REQUESTS = "goproxyai_requests_total"
UPSTREAMS = ("goproxyai_circuit_open", "goproxyai_circuit_opened_total")
TOKEN = "open-sesame"
PRICES = {
    "gpt-4o": {"prompt": 2.5, "cached": 1.25, "completion": 10},
    "gpt-4o-mini": {"prompt": 0.15, "completion": 0.6},
    "text-embedding-3-small": {"prompt": 0.02},
}
VARIABLES = {"$__rate_interval": "30s", "$__range": "1h", "$job": ".*", "$instance": ".*"}
METRIC = re.compile(r"\b(?:goproxyai|process)_[a-z0-9_]+\b")
RECORDED = re.compile(r"\bgoproxyai:[a-z0-9_:]+")


def with_token(directory: Path) -> str:
    """The configuration with what is commented out for a token, which lies in *directory*."""
    token = directory / "token"
    token.write_text(TOKEN)
    commented = r"(?m)^(    )#(?=(authorization|  type|  credentials_file):)"
    text = re.sub(commented, r"\1", CONFIG.read_text())
    assert text.count("credentials_file: ") == 1
    return text.replace("/etc/prometheus/goproxyai.token", str(token))


def expressions() -> list[str]:
    """Every query of the dashboard, as Grafana would send it."""
    document = json.loads(DASHBOARD.read_text())
    found = [each["expr"] for panel in document["panels"] for each in panel.get("targets", ())]
    found += [each["expr"] for each in document["annotations"]["list"] if "expr" in each]
    for name, value in VARIABLES.items():
        found = [each.replace(name, value) for each in found]
    return found


# The files, as promtool reads them.


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES)


@pytest.mark.parametrize("token", [False, True], ids=["as it is", "with a token"])
def test_promtool_finds_nothing_wrong_with_the_configuration(tmp_path: Path, token: bool) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text(with_token(tmp_path) if token else CONFIG.read_text())
    (tmp_path / RULES.name).write_bytes(RULES.read_bytes())
    assert "rule files found" in promtool("check", "config", config)


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", ALERTS_TEST)


def test_each_alert_is_tried_and_says_what_to_do() -> None:
    text, tried = RULES.read_text(), ALERTS_TEST.read_text()
    alerts = re.split(r"(?m)^      - (?=alert: )", text)[1:]
    assert len(alerts) >= 20
    for alert in alerts:
        (name,) = re.findall(r"alert: (\w+)", alert)
        assert f'alertname="{name}"' in tried
        for key in ("for", "severity", "summary", "description"):
            assert re.search(rf"(?m)^ +{key}: \S", alert), (name, key)


def test_what_is_recorded_is_recorded_once_and_all_that_is_asked_for_is() -> None:
    text = RULES.read_text()
    recorded = re.findall(r"- record: (\S+)", text)
    assert len(recorded) == len(set(recorded))
    assert set(RECORDED.findall(text)) == set(recorded)


# The dashboard.


def test_the_dashboard_can_be_imported_anywhere() -> None:
    document = json.loads(DASHBOARD.read_text())
    assert document["id"] is None
    assert document["schemaVersion"] >= 39
    variables = {each["name"] for each in document["templating"]["list"]}
    assert variables == {"datasource", "job", "instance"}
    numbers = [panel["id"] for panel in document["panels"]]
    assert len(numbers) == len(set(numbers))
    places = set()
    for panel in document["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not places & cells, panel["title"]
        places |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"
            for target in panel["targets"]:
                assert target["datasource"]["uid"] == "${datasource}"
                assert 'instance=~"$instance"' in target["expr"]


# The real thing.


@attrs.define(eq=False)
class Watched:
    """What became of a daemon under load that Prometheus watched.

    :ivar books: of the clients. :ivar api: upstream's books. :ivar upstream_requests: how many
        upstream got.
    :ivar at: unix time of the first scrape after all was over. :ivar samples: of that scrape.
    """

    prometheus: Prometheus
    books: Books
    api: Billing
    upstream_requests: int
    at: float
    samples: list[tuple[Labels, float]]

    def by(self, name: str, *labels: str, **wanted: str) -> dict[Any, float]:
        """The sums of a metric by *labels*, where the others are *wanted*."""
        sums: Counter[Any] = Counter()
        for has, value in self.samples:
            if has["__name__"] == name and wanted.items() <= has.items():
                key = tuple(has[each] for each in labels)
                sums[key[0] if len(key) == 1 else key] += value
        return dict(sums)

    def one(self, name: str, **wanted: str) -> float:
        """The sum of a metric."""
        return sum(self.by(name, **wanted).values())


@attrs.frozen
class Early:
    """A Prometheus that runs already, and the port at which it looks for the daemon."""

    prometheus: Prometheus
    directory: Path
    port: int


@pytest.fixture(scope="module", autouse=True)
def early(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Early | None]:
    """It looks for no target in its first five seconds: the tests that need none come meanwhile."""
    if not is_there("prometheus"):
        yield None
        return
    directory, port = tmp_path_factory.mktemp("monitoring"), free_port()
    config = directory / "prometheus.yml"
    config.write_text(
        with_token(directory)
        .replace("localhost:8080", f"127.0.0.1:{port}")
        .replace("interval: 15s", "interval: 1s")
    )
    (directory / RULES.name).write_bytes(RULES.read_bytes())
    prometheus = Prometheus(directory, config, free_port())
    yield Early(prometheus, directory, port)
    prometheus.end()


@pytest.fixture(scope="module")
def waiting(early: Early | None) -> Early:
    """The same, for those who cannot do without."""
    program("prometheus")
    assert early is not None
    return early


@pytest_twisted.async_yield_fixture(scope="module")
async def watched(waiting: Early) -> AsyncIterator[Watched]:
    """A daemon that had two thousand requests, and a scrape since."""
    from twisted.internet import reactor

    prometheus, port = waiting.prometheus, waiting.port
    upstream = FakeUpstream(reactor)
    api = rehearse(upstream)
    where = await upstream.listen(loopback(reactor))
    (waiting.directory / "prices.json").write_text(json.dumps(PRICES))
    daemon = DaemonProcess(
        waiting.directory,
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
        asks, books, at = plan(), Books(), 0.0
        for part in (asks[:1000], asks[1000:]):  # what appears between two scrapes has no rate yet
            books.add(await deferToThread(drive, port, part))
            at = await deferToThread(scraped_after, prometheus, time.time())
        samples = prometheus.query('{job="goproxyai"}', at)
        yield Watched(prometheus, books, api, len(upstream.requests), at, samples)
    finally:
        daemon.kill()
        await upstream.close()


def scraped_after(prometheus: Prometheus, end: float) -> float:
    """When the first scrape after *end* was that found nothing but itself under way."""
    at = 0.0

    def settled() -> bool:
        nonlocal at
        ((_, at),) = prometheus.query("timestamp(goproxyai_requests_in_flight)")
        return at > end and prometheus.query("goproxyai_requests_in_flight == 1", at) != []

    prometheus.until(settled)
    return at


def test_every_request_is_counted_as_its_client_saw_it(watched: Watched) -> None:
    counted = watched.by("goproxyai_requests_total", "route", "method", "status", "cache")
    scrapes = counted.pop(("/metrics", "GET", "200", "-"))
    assert counted == watched.books.requests
    assert sum(counted.values()) == len(plan())
    ((_, made),) = watched.prometheus.query("sum_over_time(up[1h])", watched.at)
    assert scrapes == made - 1, "the last one was not over when it was counted"


def test_the_load_was_of_every_kind(watched: Watched) -> None:
    caches = {key[3] for key in watched.books.requests}
    assert caches == {"HIT", "MISS", "COALESCED", "-", "method", "path", "range", "header",
                      "no-store"}  # fmt: skip
    statuses = {key[2] for key in watched.books.requests}
    assert statuses >= {"200", "400", "401", "403", "404", "405", "429", "500", "502", "504", "508"}
    assert watched.books.cut == 6
    assert watched.books.left == 4


def test_bytes_are_counted_to_the_last(watched: Watched) -> None:
    ((_, scraped),) = watched.prometheus.query(
        "sum_over_time(scrape_body_size_bytes[1h]) - scrape_body_size_bytes", watched.at
    )
    counted = watched.by("goproxyai_body_bytes_total", "way")
    assert counted == {"in": watched.books.bytes_in, "out": watched.books.bytes_out + scraped}


def test_errors_and_ends_are_counted(watched: Watched) -> None:
    books = watched.books
    counted = {code: n for code, n in watched.by("goproxyai_errors_total", "code").items() if n}
    cut = sum(counted.values()) - sum(books.errors.values())
    assert cut == books.cut, "an answer that breaks off has a code that its client is not told"
    upstreams = {code for code in counted if OWNER.get(code) == "upstream"}
    assert {k: v for k, v in counted.items() if k not in upstreams} == {
        k: v for k, v in books.errors.items() if k not in upstreams
    }
    assert watched.one("goproxyai_limited_total") == books.errors[LIMITED] > 0
    assert watched.by("goproxyai_unfinished_total", "by") == {
        "client": books.left, "upstream": books.cut
    }  # fmt: skip


def test_the_cache_and_upstream_are_counted(watched: Watched) -> None:
    requests = watched.books.requests
    counted = watched.by("goproxyai_cache_requests_total", "outcome")
    caches: Counter[str] = Counter()
    for (*_, cache), number in requests.items():
        caches[cache if cache in ("HIT", "MISS", "COALESCED", "-") else "bypass"] += number
    assert counted["hit"] == caches["HIT"]
    assert counted["bypass"] == caches["bypass"]
    # Who asks for what may not be shared is counted as coalesced, and ends as a miss.
    assert counted["coalesced"] >= caches["COALESCED"] > 0
    assert counted["miss"] + counted["coalesced"] == caches["MISS"] + caches["COALESCED"]
    assert counted["stale_if_error"] == 0
    assert watched.one("goproxyai_forwarded_total") == watched.upstream_requests
    times = watched.by("goproxyai_request_seconds_count", "cache")
    assert times["hit"] == caches["HIT"]
    assert times["none"] == caches["-"] + watched.one("goproxyai_requests_total", route="/metrics")
    unanswered = sum(n for (_, _, status, _), n in requests.items() if status == "502")
    asked = caches["MISS"] + caches["bypass"] - unanswered
    for name in ("first_byte", "upstream", "overhead"):
        assert watched.one(f"goproxyai_{name}_seconds_count") == asked
    assert watched.one("goproxyai_open_streams") == 0


def test_tokens_are_those_that_upstream_sold_and_money_is_what_they_cost(watched: Watched) -> None:
    def told(source: str) -> UsageTotals:
        return Counter(watched.by("goproxyai_tokens_total", "model", "kind", source=source))

    assert told("upstream") == watched.api.sold
    assert told("cache") == watched.books.saved
    assert watched.by("goproxyai_answers_without_usage_total", "why") == {
        "silent": watched.api.silent, "cut": watched.books.cut, "left": watched.books.left
    }  # fmt: skip
    for source, tokens in (("upstream", watched.api.sold), ("cache", watched.books.saved)):
        cost = sum(price_of(model, tokens) for model in PRICES)
        assert watched.one("goproxyai_cost_total", source=source) == pytest.approx(cost, rel=1e-9)


def price_of(model: str, tokens: UsageTotals) -> float:
    price = PRICES[model]
    prompt, cached = tokens[model, "prompt"], tokens[model, "cached"]
    return (
        (prompt - cached) * price["prompt"]
        + cached * price.get("cached", price["prompt"])
        + tokens[model, "completion"] * price.get("completion", 0)
    ) / 1e6


def test_every_rule_can_be_evaluated(watched: Watched) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = watched.prometheus.api("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    watched.prometheus.until(lambda: all(rule["health"] != "unknown" for rule in rules()))
    assert [
        (rule["name"], rule.get("lastError")) for rule in rules() if rule["health"] != "ok"
    ] == []
    assert len(rules()) == len(re.findall(r"- (?:record|alert): ", RULES.read_text()))
    firing = [rule["name"] for rule in rules() if rule.get("state") == "firing"]
    assert firing == []
    recorded = [rule["name"] for rule in rules() if rule["type"] == "recording"]
    watched.prometheus.until(lambda: all(map(watched.prometheus.query, recorded)))


def test_every_panel_has_something_to_show(watched: Watched) -> None:
    empty = [each for each in expressions() if not watched.prometheus.query(each)]
    assert empty == ['changes(process_start_time_seconds{job=~".*",instance=~".*"}[30s]) > 0']


def test_every_name_that_is_mentioned_is_scraped(watched: Watched) -> None:
    scraped = {has["__name__"] for has, _ in watched.samples}
    for text in (RULES.read_text(), " ".join(expressions())):
        assert set(METRIC.findall(text)) <= scraped


def test_promtool_finds_nothing_wrong_with_the_metrics(watched: Watched) -> None:
    target = watched.prometheus.api("targets")["activeTargets"][0]
    connection = HTTPConnection(target["labels"]["instance"], timeout=20)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    text = connection.getresponse().read()
    connection.close()
    assert promtool("check", "metrics", given=text) == ""


def test_the_questions_of_the_document_can_be_asked(watched: Watched) -> None:
    questions = re.findall(r"(?s)```promql\n(.*?)```", METRICS.read_text("utf-8"))
    assert len(questions) >= 10
    for question in questions:
        assert watched.prometheus.query(re.sub(r"\[\w+\]", "[1h]", question)), question


# The document.


def table(part: str) -> list[list[str]]:
    """The cells of a table of the document's, without its head."""
    text = METRICS.read_text("utf-8")
    lines = text.partition(f"<!-- {part}: begin -->\n")[2].partition("<!--")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


@attrs.define
class Described:
    """A metric: its type, its series, and its labels with the values that were seen."""

    kind: str
    series: int = 0
    labels: dict[str, set[str]] = attrs.field(factory=dict)


@pytest_twisted.async_yield_fixture
async def scraped(harness: ProxyHarness) -> AsyncIterator[dict[str, Described]]:
    """All that a daemon says that sold something."""
    harness.upstream.api = Billing()
    await harness.start()
    assert harness.daemon is not None
    harness.daemon.context.counters.tokens.prices = prices.parse(json.dumps(PRICES).encode())
    await harness.ask(post("/v1/completions", b'{"model":"gpt-4o","prompt":"a"}'))
    text = (await harness.ask(request("/metrics"))).body.decode()
    found: dict[str, Described] = {}
    for family in text_string_to_metric_families(text):
        name = family.name + "_total" * (family.type == "counter")
        one = found[name] = Described(family.type)
        for sample in family.samples:
            for label, value in sample.labels.items():
                one.labels.setdefault(label, set()).add(value)
            one.series += 1
        one.labels.pop("le", None)
    yield found


def test_the_document_has_every_metric_and_nothing_else(scraped: dict[str, Described]) -> None:
    rows = table("metrics")
    documented = {name.strip("`"): (kind, words(labels)) for name, kind, labels, _ in rows}
    assert len(documented) == len(rows)
    assert documented == {name: (one.kind, set(one.labels)) for name, one in scraped.items()}
    assert all(meaning for *_, meaning in rows)


def test_the_document_has_every_value_of_each_label(scraped: dict[str, Described]) -> None:
    sets = {
        (label.strip("`"), of.strip("`")): words(values) for label, of, values in table("labels")
    }
    open_ones = {"status", "version", "upstream", "model"}
    labelled = {(label, name) for name, one in scraped.items() for label in one.labels}
    assert set(sets) == {pair for pair in labelled if pair[0] not in open_ones}
    for (label, name), values in sets.items():
        seen = scraped[name].labels[label]
        assert seen <= values
        # What has a value for each from the start has no other one.
        if (label, name) not in {("route", REQUESTS), ("method", REQUESTS), ("cache", REQUESTS)}:
            assert seen == values, (label, name)
    assert sets["route", REQUESTS] == {*ROUTES, "other"}
    assert sets["method", REQUESTS] == {*RELAYED.methods, "other"}


def test_the_document_says_how_many_series_there_may_be(scraped: dict[str, Described]) -> None:
    text = METRICS.read_text("utf-8")
    assert f"at most {MAX_OUTCOMES} combinations" in text
    assert f"{MAX_MODELS} models" in text
    assert f"({(MAX_MODELS + 1) * len(KINDS) * 2} series of tokens)" in text
    grow = (REQUESTS, "goproxyai_tokens_total", *UPSTREAMS)
    fixed = sum(one.series for name, one in scraped.items() if name not in grow)
    assert f"The other metrics have {fixed} series, and two for each upstream." in " ".join(
        text.split()
    )
    assert all(scraped[name].series == 1 for name in UPSTREAMS)


def test_the_load_saw_nothing_that_the_document_does_not_say(watched: Watched) -> None:
    sets = {
        (label.strip("`"), of.strip("`")): words(values) for label, of, values in table("labels")
    }
    seen = [(label, has["__name__"], value) for has, _ in watched.samples
            for label, value in has.items() if (label, has["__name__"]) in sets]  # fmt: skip
    assert len(seen) > 100
    assert [each for each in seen if each[2] not in sets[each[0], each[1]]] == []
