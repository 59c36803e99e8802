import itertools
import re
from typing import Any

import pytest
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor
from kubernetes_validate.utils import validate

from tests.chart.conftest import Objects, Render, container, deployment, environment, the

# The oldest that Chart.yaml allows, one in the middle, and the newest that the schemas know.
KUBERNETES = ("1.27.0", "1.32.0", "1.37.0")
# NACK publishes no models: what the contract names is tested below.
OF_OPERATORS: dict[str, Any] = {
    "ScaledObject": ScaledObject,
    "PodMonitor": PodMonitor,
    "Stream": None,
    "Consumer": None,
}
# YAML reads these as something else than text unless they are quoted; the last is as long as Helm allows.
HOSTILE = ("y", "n", "on", "null", "true", "1e3", "0x10", "123", "1.5.0", f"a{'b' * 51}c")

FULL: dict[str, Any] = {
    "settings": {"NATS_URL": "tls://a.nats:4223, b.nats, ws://c", "AICHATS_URL": "http://upstream.example:8443"},
    "secrets": {
        "NATS_CREDS": {"name": "nats", "key": "creds"},
        "NATS_CA": {"name": "tls", "key": "ca.crt"},
        "AICHATS_COOKIE": {"name": "provider", "key": "cookie"},
    },
    "imagePullSecrets": ["registry"],
    "simulator": {"enabled": True},
    "podMonitor": {"enabled": True, "labels": {"team": "ai"}},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}], "extraEgress": [{"ports": [{"port": 3128}]}]},
    "serviceAccount": {"annotations": {"team": "ai"}},
    "commonLabels": {"team": "y"},
    "podLabels": {"pool": "1e3"},
    "podAnnotations": {"note": "on"},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraEnvFrom": [{"secretRef": {"name": "more"}}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
}
MATRIX = [
    pytest.param(
        base | {"scaling": {"mode": scaling}, "provision": {"mode": provision}}, id=f"{name}-{scaling}-{provision}"
    )
    for (name, base), scaling, provision in itertools.product(
        (("plain", {}), ("full", FULL)), ("none", "keda", "hpa"), ("job", "nack", "worker")
    )
]


def pods(objects: Objects) -> list[dict[str, Any]]:
    """The pod specification of each object that has one."""
    found = [each["spec"]["template"]["spec"] for each in objects if each["kind"] in ("Deployment", "Job")]
    return found + [each["spec"] for each in objects if each["kind"] == "Pod"]


def check(objects: Objects, kubernetes: str) -> None:
    """Kubernetes's own strict schema, and the models of the operators' kinds."""
    for each in objects:
        if each["kind"] in OF_OPERATORS:
            if model := OF_OPERATORS[each["kind"]]:
                model.model_validate(each)
        else:
            validate(each, kubernetes.rsplit(".", 1)[0], strict=True)


@pytest.mark.parametrize("values", MATRIX)
def test_every_object_passes_the_strict_schemas_of_old_and_new_kubernetes(
    render: Render, values: dict[str, Any]
) -> None:
    for kubernetes in KUBERNETES:
        check(render(values, kubernetes=kubernetes), kubernetes)


@pytest.mark.parametrize("values", MATRIX)
def test_every_pod_meets_the_restricted_policy_and_has_no_token(render: Render, values: dict[str, Any]) -> None:
    for pod in pods(render(values)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 65532
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in pod["containers"]:
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert each["securityContext"]["allowPrivilegeEscalation"] is False
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            assert each["resources"]["requests"].keys() == {"cpu", "memory"}
            assert each["resources"]["limits"]["memory"]
        assert all(
            "emptyDir" not in volume or volume["emptyDir"] or volume["name"] == "more" for volume in pod["volumes"]
        )


@pytest.mark.parametrize("release", HOSTILE)
def test_a_release_may_be_called_anything(render: Render, release: str) -> None:
    for scaling, provision in (("keda", "job"), ("hpa", "nack")):
        objects = render(FULL | {"scaling": {"mode": scaling}, "provision": {"mode": provision}}, release=release)
        check(objects, "1.37.0")
        for each in objects:
            # What a Service's name must be is right for all the others too.
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", each["metadata"]["name"].replace(".", "-")), each
            assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == release
        names = [(each["kind"], each["metadata"]["name"]) for each in objects]
        assert len(names) == len(set(names))


def test_every_selector_matches_its_own_pods_and_no_others(render: Render) -> None:
    objects = render(FULL)
    workers = deployment(objects)["spec"]["template"]["metadata"]["labels"]
    others = [
        each.get("spec", {}).get("template", each)["metadata"]["labels"]
        for each in objects
        if each["metadata"]["labels"]["app.kubernetes.io/component"] != "worker"
    ]
    selectors = [
        deployment(objects)["spec"]["selector"],
        the(objects, "PodDisruptionBudget")["spec"]["selector"],
        the(objects, "NetworkPolicy")["spec"]["podSelector"],
        the(objects, "PodMonitor")["spec"]["selector"],
        *(spread["labelSelector"] for spread in pods([deployment(objects)])[0]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector["matchLabels"].items() <= workers.items()
        assert not any(selector["matchLabels"].items() <= labels.items() for labels in others)


@pytest.mark.parametrize(("drain", "grace"), [(0, 10), (25, 35), (0.2, 11), (600, 610)])
def test_the_grace_period_is_longer_than_the_drain(render: Render, drain: float, grace: int) -> None:
    spec = deployment(render({"settings": {"WORKER_DRAIN_TIMEOUT_SECONDS": drain}}))["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == grace


def test_the_broker_is_asked_about_for_readiness_alone(render: Render) -> None:
    worker = container(render())
    assert worker["startupProbe"]["httpGet"]["path"] == worker["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert worker["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_probes_follow_the_port_and_go_with_it(render: Render) -> None:
    objects = render({"settings": {"WORKER_HTTP_PORT": 9000}})
    assert container(objects)["ports"][0]["containerPort"] == 9000
    assert the(objects, "NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"] == 9000
    without = container(render({"settings": {"WORKER_HTTP_PORT": 0}}))
    assert not without.keys() & {"ports", "startupProbe", "livenessProbe", "readinessProbe"}


@pytest.mark.parametrize("mode", ["none", "keda", "hpa"])
def test_one_alone_decides_how_many_workers_there_are(render: Render, mode: str) -> None:
    objects = render({"scaling": {"mode": mode}})
    deciders = [each["kind"] for each in objects if each["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]
    deciders += ["replicas"] if "replicas" in deployment(objects)["spec"] else []
    assert len(deciders) == 1


@pytest.mark.parametrize(
    ("mode", "jobs", "provisions"),
    [("job", True, "off"), ("nack", True, "off"), ("worker", True, "on"), ("job", False, "off")],
)
def test_streams_are_made_by_one_alone(render: Render, mode: str, jobs: bool, provisions: str) -> None:
    objects = render({"provision": {"mode": mode}, "settings": {"WORKER_JOBS": jobs}})
    kinds = [each["kind"] for each in objects]
    assert environment(objects)["WORKER_JOBS_PROVISION"] == provisions
    assert ("Job" in kinds) == (mode == "job" and jobs)
    assert ("Stream" in kinds) == (mode == "nack" and jobs)


def test_the_provision_job_gets_no_secret_of_the_provider(render: Render) -> None:
    names = [variable["name"] for variable in pods([the(render(FULL), "Job")])[0]["containers"][0]["env"]]
    assert "NATS_CREDS" in names
    assert not [name for name in names if name.startswith(("AICHATS_", "OPENAI_", "PROVIDER_"))]


def test_egress_is_to_the_ports_of_the_urls(render: Render) -> None:
    egress = the(render(FULL), "NetworkPolicy")["spec"]["egress"]
    ports = [[port["port"] for port in rule["ports"]] for rule in egress]
    assert ports == [[53, 53], [4223, 4222, 80], [443, 80, 8443], [8000], [3128]]


def test_the_simulator_is_asked_in_place_of_the_provider(render: Render) -> None:
    objects = render({"simulator": {"enabled": True}})
    service = the(objects, "Service")
    assert environment(objects)["AICHATS_URL"] == f"http://{service['metadata']['name']}:8000"
    simulated = the(objects, "Deployment", "simulator")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= simulated.items()


def test_a_digest_wins_over_the_tag(render: Render) -> None:
    digest = f"sha256:{'a' * 64}"
    assert container(render({"image": {"repository": "r/w", "tag": "1"}}))["image"] == "r/w:1"
    assert container(render({"image": {"repository": "r/w", "tag": "1", "digest": digest}}))["image"] == f"r/w@{digest}"


def test_nack_makes_what_the_contract_names(render: Render) -> None:
    objects = render(
        {
            "provision": {"mode": "nack", "replicas": 3},
            "settings": {"WORKER_SUBJECT_PREFIX": "x.v1", "WORKER_ACK_WAIT_SECONDS": 45, "WORKER_MAX_DELIVER": 7},
        }
    )
    streams = {each["spec"]["name"]: each["spec"] for each in objects if each["kind"] == "Stream"}
    consumers = {each["spec"]["durableName"]: each["spec"] for each in objects if each["kind"] == "Consumer"}
    assert {name: spec["subjects"] for name, spec in streams.items()} == {
        "AIJOBS": ["x.v1.job.*.*.*"],
        "AIOUT": ["x.v1.out.*.*"],
        "AIDEAD": ["x.v1.dead.*.*.*"],
    }
    assert {spec["replicas"] for spec in streams.values()} == {3}
    assert streams["AIJOBS"]["retention"] == "workqueue"
    assert streams["AIJOBS"]["duplicateWindow"] == streams["AIOUT"]["maxAge"] == "15m"
    assert {name: spec["filterSubject"] for name, spec in consumers.items()} == {
        "ai-workers-text": "x.v1.job.text.*.*",
        "ai-workers-image": "x.v1.job.image.*.*",
    }
    assert {(spec["ackWait"], spec["maxDeliver"]) for spec in consumers.values()} == {("45s", 7)}
