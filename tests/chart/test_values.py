import copy
import json
import re
from typing import Any

import pytest
import yaml

from aichats_worker.settings import Settings, load_settings
from tests.chart import written
from tests.chart.conftest import ChartRefused, Render, container, environment, the
from tests.chart.written import CHART

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
FIELDS = sorted(name.upper() for name in Settings.model_fields)
PLAIN = sorted(set(FIELDS) - written.secret_names())

# For text settings that are checked; the others take any text.
TEXTS = {
    "OPENAI_IMAGE_BASE_URL": "http://127.0.0.1:11434/v1",
    "WORKER_PROVIDERS": "openai",
    "NATS_URL": "nats://elsewhere:4333",
    "AICHATS_URL": "https://elsewhere.example",
    "OPENAI_BASE_URL": "https://elsewhere.example/v1",
    "WORKER_LOG_FORMAT": "console",
}

# What turns a part of the chart on whose values have no effect otherwise.
KEDA = {"scaling": {"mode": "keda"}}
HPA = {"scaling": {"mode": "hpa"}}
MONITOR = {"podMonitor": {"enabled": True}}
NEEDS: dict[str, dict[str, Any]] = {
    "scaling.minReplicas": HPA,
    "scaling.maxReplicas": HPA,
    "scaling.keda": KEDA,
    "scaling.hpa": HPA,
    "podMonitor.labels": MONITOR,
    "podMonitor.interval": MONITOR,
    "prometheusRule.labels": {"prometheusRule": {"enabled": True}},
    "dashboard.labels": {"dashboard": {"enabled": True}},
    "dashboard.annotations": {"dashboard": {"enabled": True}},
}
# Another value for those that have none to begin with, or not just any.
EXAMPLES: dict[str, Any] = {
    "secrets": {"NATS_CREDS": {"name": "nats", "key": "creds"}},
    "image.tag": "9.9.9",
    "image.digest": f"sha256:{'a' * 64}",
    "image.pullPolicy": "Always",
    "imagePullSecrets": ["registry"],
    "nameOverride": "other",
    "fullnameOverride": "other",
    "scaling.mode": "hpa",
    "scaling.keda.monitoringEndpoint": "elsewhere:8222",
    "scaling.keda.prometheus": "http://prometheus:9090",
    "provision.mode": "worker",
    "provision.settings": {"NATS_INBOX_PREFIX": "_INBOX.operator"},
    "provision.secrets": {"NATS_NKEY": {"name": "nats", "key": "operator"}},
    "test.settings": {"NATS_INBOX_PREFIX": "_INBOX.teama"},
    "test.secrets": {"NATS_NKEY": {"name": "nats", "key": "teama"}},
    "smallPods.labels": {"team": "ai"},
    "smallPods.annotations": {"team": "ai"},
    "tmpSizeLimit": "1Gi",
    "topologySpread.whenUnsatisfiable": "DoNotSchedule",
    "networkPolicy.metricsFrom": [{"namespaceSelector": {}}],
    "networkPolicy.privateCidrs": ["10.0.0.0/8"],
    "networkPolicy.extraEgress": [{"ports": [{"port": 3128}]}],
    "podMonitor.labels": {"team": "ai"},
    "podMonitor.interval": "10s",
    "prometheusRule.labels": {"team": "ai"},
    "dashboard.annotations": {"grafana_folder": "AI"},
    "resources.requests.cpu": "2",
    "smallPods.resources.requests.cpu": "2",
    "smallPods.resources.requests.memory": "1Gi",
    "smallPods.resources.limits.memory": "1Gi",
    "serviceAccount.name": "other",
    "serviceAccount.annotations": {"team": "ai"},
    "commonLabels": {"team": "ai"},
    "podLabels": {"team": "ai"},
    "podAnnotations": {"team": "ai"},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraEnvFrom": [{"secretRef": {"name": "a"}}],
    "extraVolumes": [{"name": "a", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "a", "mountPath": "/a"}],
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}"}}],
}


def leaves(values: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        here = f"{path}.{key}".lstrip(".")
        found += leaves(value, here) if isinstance(value, dict) and value else [here]
    return found


def at(values: dict[str, Any], path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def put(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split(".")
    result = copy.deepcopy(values)
    target = result
    for key in parents:
        target = target.setdefault(key, {})
    target[last] = value
    return result


def another(path: str, value: Any) -> Any:
    if path in EXAMPLES:
        return EXAMPLES[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    assert isinstance(value, str), f"EXAMPLES needs another value for {path}"
    assert value, f"EXAMPLES needs another value for {path}"
    return f"{value}0" if "resources" in path else f"{value}x"


def another_setting(name: str) -> Any:
    """A value that worker.settings takes and that is not its default."""
    bounds = written.settings_schema()[name]
    default = Settings.model_fields[name.lower()].default
    if "enum" in bounds:
        return next(value for value in bounds["enum"] if value != default)
    if bounds["type"] == "integer":
        return default + 1 if default < bounds.get("maximum", default + 1) else default - 1
    return default + 0.5 if bounds["type"] == "number" else TEXTS.get(name, "other")


@pytest.mark.parametrize("path", [path for path in leaves(VALUES) if not path.startswith("settings.")])
def test_every_value_has_an_effect(render: Render, path: str) -> None:
    needs = next((value for prefix, value in NEEDS.items() if path.startswith(prefix)), {})
    assert render(put(needs, path, another(path, at(VALUES, path)))) != render(needs)


@pytest.mark.parametrize("name", PLAIN)
def test_every_setting_that_is_no_secret_reaches_the_worker(
    render: Render, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = another_setting(name)
    rendered = environment(render({"settings": {name: value}}))
    if name in ("PROVIDER_CA", "PROVIDER_CERT", "PROVIDER_KEY"):  # read at once; tests/test_wiring.py has real ones
        assert rendered[name] == value
        return

    partner = {"NATS_CERT": "NATS_KEY", "NATS_KEY": "NATS_CERT", "NATS_USER": "NATS_PASSWORD"}.get(name)
    monkeypatch.setenv(name, rendered[name])
    if partner:
        monkeypatch.setenv(partner, "other")
    read = getattr(load_settings(), name.lower())
    assert read == ({"on": True, "off": False}.get(value, value) if isinstance(value, str) else value)
    assert read != Settings.model_fields[name.lower()].default


@pytest.mark.parametrize("name", sorted(set(FIELDS) - set(written.REQUIRED)))
def test_every_setting_can_come_from_a_secret(render: Render, name: str) -> None:
    without = {name: None} if name in VALUES["settings"] else {}
    objects = render({"settings": without, "secrets": {name: {"name": "mine", "key": "one"}}})
    assert [variable["name"] for variable in container(objects)["env"]].count(name) == 1
    reference = environment(objects)[name]
    if name.startswith(("NATS_", "PROVIDER_")) and "Path of" in (Settings.model_fields[name.lower()].description or ""):
        volumes = {volume["name"]: volume for volume in _pod(objects)["volumes"]}
        item = {"secret": {"name": "mine", "items": [{"key": "one", "path": name}]}}
        assert reference == f"/etc/aichats/{name}"
        assert volumes["secrets"]["projected"]["sources"] == [item]
        mounts = _pod(objects)["containers"][0]["volumeMounts"]
        assert {"name": "secrets", "mountPath": "/etc/aichats", "readOnly": True} in mounts
    else:
        assert reference == {"secretKeyRef": {"name": "mine", "key": "one"}}


@pytest.mark.parametrize("name", sorted(written.secret_names()))
def test_a_secret_is_refused_as_a_value(render: Render, name: str) -> None:
    with pytest.raises(ChartRefused, match=name):
        render({"settings": {name: "plain"}})


def test_the_settings_that_the_chart_names_are_the_workers_defaults() -> None:
    chosen = {"NATS_URL", "WORKER_LOG_FORMAT"}
    defaults = {name: Settings.model_fields[name.lower()].default for name in VALUES["settings"]}
    assert {key: value for key, value in VALUES["settings"].items() if key not in chosen} == {
        key: value for key, value in defaults.items() if key not in chosen
    }


def test_numbers_are_written_as_the_worker_reads_them(render: Render) -> None:
    variables = environment(
        render({"settings": {"PROVIDER_IMAGE_MAX_BYTES": 20971520, "WORKER_KEEPALIVE_SECONDS": 0.25}})
    )
    assert variables["PROVIDER_IMAGE_MAX_BYTES"] == "20971520"
    assert variables["WORKER_KEEPALIVE_SECONDS"] == "0.25"


def test_opentelemetrys_own_variables_are_settings_too(render: Render) -> None:
    variables = environment(render({"settings": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}}))
    assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"setings": {}}, "setings"),
        ({"settings": {"WORKER_CONCURENCY_MAX": 1}}, "WORKER_CONCURENCY_MAX"),
        ({"settings": {"WORKER_CONCURRENCY_MAX": 0}}, "WORKER_CONCURRENCY_MAX"),
        ({"settings": {"WORKER_DRAIN_TIMEOUT_SECONDS": None}}, "WORKER_DRAIN_TIMEOUT_SECONDS"),
        ({"scaling": {"mode": "both"}}, "mode"),
        ({"scaling": {"mode": "keda"}, "settings": {"WORKER_JOBS": False}}, "WORKER_JOBS is off"),
        ({"scaling": {"mode": "hpa", "minReplicas": 0}}, "needs scaling.mode: keda"),
        ({"scaling": {"mode": "keda", "minReplicas": 9, "maxReplicas": 2}}, "cannot be larger"),
        ({"podMonitor": {"enabled": True}, "settings": {"WORKER_HTTP_PORT": 0}}, "WORKER_HTTP_PORT 0"),
        ({"secrets": {"NATS_URL": {"name": "a", "key": "b"}}}, "NATS_URL is set twice"),
        ({"secrets": {"NATS_CREDS": {"name": "a"}}}, "key"),
        (
            {"test": {"settings": {"NATS_USER": "a"}, "secrets": {"NATS_USER": {"name": "a", "key": "b"}}}},
            "NATS_USER is set twice: under test.settings and under test.secrets",
        ),
        ({"provision": {"settings": {"AICHATS_URL": "https://a.example"}}}, "AICHATS_URL"),
        ({"provision": {"settings": {"NATS_PASSWORD": "plain"}}}, "NATS_PASSWORD"),
        ({"test": {"tenant": "a.b"}}, "tenant"),
        ({"image": {"digest": "sha256:1"}}, "digest"),
    ],
)
def test_what_cannot_work_is_refused_in_words(render: Render, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ChartRefused, match=reason):
        render(values)


def test_an_umbrella_charts_globals_are_let_in(render: Render) -> None:
    assert render({"global": {"anything": 1}}) == render()


def test_objects_of_ones_own_are_templates(render: Render) -> None:
    objects = render(
        {"extraObjects": [EXAMPLES["extraObjects"][0], "apiVersion: v1\nkind: Secret\nmetadata: {name: s}"]}
    )
    assert the(objects, "ConfigMap")["metadata"]["name"] == "chat"
    assert the(objects, "Secret")["metadata"]["name"] == "s"


def test_the_readme_names_the_secrets_that_are_mounted_as_files() -> None:
    """Those are read again when they change; the others need workers that start anew."""
    (row,) = re.findall(r"^\| (.*) \| a mounted file", (CHART / "README.md").read_text(), flags=re.MULTILINE)
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    files = json.loads(helpers.partition('define "worker.files" -}}')[2].partition("{{-")[0])
    assert re.findall(r"`(\w+)`", row) == files


def test_the_written_files_are_current() -> None:
    assert (CHART / "values.schema.json").read_text() == written.values_schema(), "run make chart-docs"
    assert (CHART / "README.md").read_text() == written.readme(), "run make chart-docs"


def test_the_schema_closes_every_object_of_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    # Kubernetes's own, and the words of other people.
    free = {"global", "resources", "affinity"}
    for key, value in schema["properties"].items():
        if value.get("type") == "object" and key not in free:
            assert value["additionalProperties"] is False, key


def _pod(objects: Any) -> dict[str, Any]:
    found: dict[str, Any] = the(objects, "Deployment")["spec"]["template"]["spec"]
    return found
