"""The files for containers are valid: by Helm, Docker Compose, hadolint and Kubernetes' schemas.

`tox -e packaging` installs these programs; no cluster and no Docker daemon is needed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from goproxyai.config.settings import Settings
from goproxyai.config.sources import VARIABLE_NAMES
from goproxyai.daemon.service import CLOSE_TIMEOUT_SECONDS

yaml = pytest.importorskip("yaml")
kubernetes_validate = pytest.importorskip("kubernetes_validate")
chart_module = pytest.importorskip("helm_python.chart")

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "goproxyai"
BIN = Path(sys.executable).parent
SECRETS = {"ADMIN_TOKEN": "a" * 32, "STATE_SECRET": "b" * 32}

MANIFESTS = ["kubernetes.yaml", "kubernetes-autoscaling.yaml"]

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "autoscaling": {"autoscaling": {"enabled": True}, "admin": {"published": True}},
    "secret": {"secretName": "goproxyai", "settings": {"CACHE_TTL": "1h"}},
    "placement": {
        "imagePullSecrets": [{"name": "registry"}],
        "podAnnotations": {"example.com/team": "models"},
        "nodeSelector": {"kubernetes.io/arch": "arm64"},
        "tolerations": [{"key": "models", "operator": "Exists"}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "goproxyai"}},
            }
        ],
    },
}


def documents(name: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((DEPLOY / name).read_text()) if each]


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the manifests of the chart."""
    with chart_module.Chart.load(CHART) as chart:
        texts = chart.render(values=values, name="demo")
    found = [yaml.safe_load(text) for name, text in texts.items() if name.endswith(".yaml")]
    return [each for each in found if each]


def of_kind(kind: str, manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [each for each in manifests if each["kind"] == kind]
    return found


def pod(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(of_kind("Deployment", manifests)["spec"]["template"]["spec"])


def settings_of(spec: dict[str, Any]) -> Settings:
    """Return the settings in the environment of a pod's only container."""
    (container,) = spec["containers"]
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert set(given) <= VARIABLE_NAMES
    return Settings.from_texts(given)


def compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "docker-compose"), "-f", str(DEPLOY / "compose.yaml"), *arguments],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def validate(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.30", strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_match_the_schemas_of_kubernetes(name: str) -> None:
    for manifest in documents(name):
        validate(manifest)


def test_misspelt_field_does_not_match_the_schemas() -> None:
    manifest = of_kind("Service", documents("kubernetes.yaml"))
    manifest["spec"]["prots"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(manifest)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_chart_renders_valid_manifests(values: dict[str, Any]) -> None:
    for manifest in rendered(values):
        validate(manifest)
    settings_of(pod(rendered(values)))


def test_helm_command_of_the_page_renders_pods_that_share_their_state() -> None:
    page = (ROOT / "docs" / "how-to" / "scale.md").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"(?m)^\$ helm install (.*)$", page)
    values: dict[str, Any] = {}
    for name, value in re.findall(r"--set(?:-string)? ([\w.]+)=(\S+)", command):
        *parents, last = name.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        is_number = value.isdigit() and parents != ["settings"]
        place[last] = int(value) if is_number else value
    manifests = rendered(values)
    for manifest in manifests:
        validate(manifest)
    assert of_kind("Deployment", manifests)["spec"]["replicas"] == 10
    assert settings_of(pod(manifests)).workers == 2
    (container,) = pod(manifests)["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "goproxyai"}}]
    assert container["resources"]["limits"]["memory"] == "1300Mi"


def test_helm_has_no_complaint_about_the_chart() -> None:
    messages = chart_module.lint(CHART, strict=True)["messages"]
    assert [each["error"] for each in messages] == ["icon is recommended"]


@pytest.mark.parametrize(
    "values",
    [
        {"replicaCount": 3},
        {"settings": {"RATE_LIMIT": 60}},
        {"settings": {"rate_limit": "60"}},
        {"settings": {"DRAIN_DELAY": "1s"}},
    ],
)
def test_chart_refuses_values_without_effect(values: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="values don't meet the specifications"):
        rendered(values)


def test_chart_and_manifest_have_the_same_pod() -> None:
    of_chart, of_manifest = pod(rendered({})), pod(documents("kubernetes.yaml"))
    containers = [of_chart.pop("containers"), of_manifest.pop("containers")]
    assert of_chart == of_manifest
    for (container,) in containers:
        del container["image"], container["env"]
        container.pop("imagePullPolicy", None)
    assert containers[0] == containers[1]
    assert settings_of(pod(rendered({}))) == settings_of(pod(documents("kubernetes.yaml")))


@pytest.mark.parametrize("delay", [0, 10, 60])
def test_pods_of_the_chart_end_in_time(delay: int) -> None:
    spec = pod(rendered({"drain": {"delaySeconds": delay, "timeoutSeconds": 300}}))
    settings = settings_of(spec)
    assert (settings.drain_delay, settings.drain_timeout) == (delay, 300)
    stop = delay + 300 + CLOSE_TIMEOUT_SECONDS
    assert spec["terminationGracePeriodSeconds"] > stop


def test_readiness_is_noticed_within_the_drain_delay() -> None:
    spec = pod(rendered({}))
    probe = spec["containers"][0]["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < settings_of(spec).drain_delay


@pytest.mark.parametrize("source", ["manifest", "chart"])
def test_pods_are_added_by_open_streams(source: str) -> None:
    if source == "chart":
        manifests = rendered(VALUES["autoscaling"])
        assert "replicas" not in of_kind("Deployment", manifests)["spec"]
    else:
        manifests = documents("kubernetes-autoscaling.yaml")
    scaler = of_kind("HorizontalPodAutoscaler", manifests)
    (pods,) = [each["pods"] for each in scaler["spec"]["metrics"] if each["type"] == "Pods"]
    name = pods["metric"]["name"]
    assert f"| `{name}` | gauge |" in "".join(
        path.read_text("utf-8") for path in (ROOT / "docs").rglob("metrics.md")
    )


def test_compose_accepts_the_file_and_sets_valid_settings() -> None:
    done = compose("config", "--format", "json", **SECRETS)
    assert (done.returncode, done.stderr) == (0, "")
    project = json.loads(done.stdout)
    assert set(project["services"]) == {"goproxyai", "redis", "prometheus", "grafana"}
    service = project["services"]["goproxyai"]
    settings = Settings.from_texts({k: v for k, v in service["environment"].items() if v})
    assert settings.admin_listen
    assert service["read_only"] is True
    image_check = re.findall(
        r"(?m)^HEALTHCHECK --interval=(\S+) --timeout=(\S+) --start-period=(\S+) \\\n +CMD (.*)$",
        (DEPLOY / "Dockerfile").read_text(),
    )
    check = service["healthcheck"]
    assert image_check == [
        (check["interval"], check["timeout"], check["start_period"], json.dumps(check["test"][1:]))
    ]
    (minutes,) = re.findall(r"^(\d+)m0s$", service["stop_grace_period"])
    stop = settings.drain_delay + settings.drain_timeout + CLOSE_TIMEOUT_SECONDS
    assert int(minutes) * 60 > stop
    published = {
        port["published"]: port.get("host_ip")
        for each in project["services"].values()
        for port in each.get("ports", ())
    }
    assert {port for port, host in published.items() if host != "127.0.0.1"} == {"8080"}


def test_compose_names_the_variable_that_is_missing() -> None:
    done = compose("config", ADMIN_TOKEN="a" * 32)
    assert done.returncode != 0
    assert "STATE_SECRET" in done.stderr


def test_compose_scrapes_as_the_example_does() -> None:
    project = json.loads(compose("config", "--format", "json", **SECRETS).stdout)
    here = yaml.safe_load(project["configs"]["prometheus"]["content"])
    (scrape,) = here["scrape_configs"]
    assert scrape.pop("authorization")["credentials"] == SECRETS["ADMIN_TOKEN"]
    assert scrape.pop("static_configs") == [{"targets": ["goproxyai:8081"]}]
    example = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (expected,) = example["scrape_configs"]
    del expected["static_configs"]
    expected.pop("metrics_path")  # the default
    assert scrape == expected
    assert here["global"] == example["global"]


def test_compose_provisions_the_data_source_and_the_dashboard() -> None:
    project = json.loads(compose("config", "--format", "json", **SECRETS).stdout)
    grafana = project["services"]["grafana"]
    (volume,) = grafana["volumes"]
    provider = yaml.safe_load(project["configs"]["grafana-dashboards"]["content"])["providers"][0]
    assert str(Path(volume["target"]).parent) == provider["options"]["path"]
    assert Path(volume["source"]).exists()
    source = yaml.safe_load(project["configs"]["grafana-datasource"]["content"])["datasources"][0]
    assert source["url"] == "http://prometheus:9090"


def test_dockerfile_has_no_findings_and_a_pinned_base() -> None:
    done = subprocess.run(
        [str(BIN / "hadolint"), str(DEPLOY / "Dockerfile")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    text = (DEPLOY / "Dockerfile").read_text()
    (base,) = re.findall(r"(?m)^ARG PYTHON_IMAGE=(.*)$", text)
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", base)
    assert set(re.findall(r"(?m)^FROM (\S+)", text)) == {"${PYTHON_IMAGE}"}
