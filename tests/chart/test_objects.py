import itertools
import re
from typing import Any

import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule
from kubernetes_validate.utils import validate

from aichats_worker.broker.stopping import STOP_SECONDS
from aichats_worker.commands.ending import STATUS_ERROR, STATUS_USAGE
from aichats_worker.tracing.exporting import FLUSH_TIMEOUT_SECONDS
from tests.chart.conftest import Objects, Render, container, deployment, environment, the
from tests.chart.written import CHART

# The oldest that Chart.yaml allows, one in the middle, and the newest that the schemas know.
KUBERNETES = ("1.27.0", "1.32.0", "1.37.0")
# NACK publishes no models: what the contract names is tested below.
OF_OPERATORS: dict[str, Any] = {
    "ScaledObject": ScaledObject,
    "PodMonitor": PodMonitor,
    "PrometheusRule": PrometheusRule,
    "Stream": None,
    "Consumer": None,
}
# YAML reads these as something else than text unless they are quoted; the last is as long as Helm allows.
HOSTILE = ("y", "n", "on", "null", "true", "1e3", "0x10", "123", "1.5.0", "a.b", f"{'a' * 50}--b", f"a{'b' * 51}c")

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
    "prometheusRule": {"enabled": True, "labels": {"team": "ai"}},
    "dashboard": {"enabled": True, "annotations": {"grafana_folder": "AI"}},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}], "extraEgress": [{"ports": [{"port": 3128}]}]},
    "serviceAccount": {"annotations": {"team": "ai"}},
    "commonLabels": {"team": "y"},
    "podLabels": {"pool": "1e3"},
    "podAnnotations": {"note": "on"},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "smallPods": {"labels": {"pool": "1e3"}, "annotations": {"note": "on"}},
    "provision": {"secrets": {"NATS_NKEY": {"name": "nats", "key": "operator"}}},
    "test": {"tenant": "teama", "settings": {"NATS_INBOX_PREFIX": "_INBOX.teama"}},
    "scaling": {"keda": {"prometheus": "http://prometheus:9090"}, "hpa": {"slotsPercent": 75}},
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraEnvFrom": [{"secretRef": {"name": "more"}}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
}
MATRIX = [
    pytest.param(
        base
        | {
            "scaling": base.get("scaling", {}) | {"mode": scaling},
            "provision": base.get("provision", {}) | {"mode": provision},
        },
        id=f"{name}-{scaling}-{provision}",
    )
    for (name, base), scaling, provision in itertools.product(
        (("plain", {}), ("full", FULL)), ("none", "keda", "hpa"), ("job", "nack", "worker", "none")
    )
]


def pods(objects: Objects) -> list[dict[str, Any]]:
    """The pod specification of each object that has one."""
    return [each["spec"] for each in pod_templates(objects)]


def pod_templates(objects: Objects) -> list[dict[str, Any]]:
    """The metadata and specification of each pod."""
    found = [each["spec"]["template"] for each in objects if each["kind"] in ("Deployment", "Job")]
    return found + [each for each in objects if each["kind"] == "Pod"]


def pod_labels(objects: Objects) -> list[dict[str, str]]:
    return [each["metadata"]["labels"] for each in pod_templates(objects)]


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
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", each["metadata"]["name"]), each
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
        the(objects, "NetworkPolicy", "aichats-worker")["spec"]["podSelector"],
        the(objects, "PodMonitor")["spec"]["selector"],
        *(spread["labelSelector"] for spread in pods([deployment(objects)])[0]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector["matchLabels"].items() <= workers.items()
        assert not any(selector["matchLabels"].items() <= labels.items() for labels in others)


@pytest.mark.parametrize(("drain", "grace"), [(0, 12), (25, 37), (0.2, 13), (600, 612)])
def test_the_grace_period_is_longer_than_a_stop(render: Render, drain: float, grace: int) -> None:
    spec = deployment(render({"settings": {"WORKER_DRAIN_TIMEOUT_SECONDS": drain}}))["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == grace
    assert grace > drain + STOP_SECONDS + FLUSH_TIMEOUT_SECONDS


def test_compose_gives_a_stop_as_long_as_the_chart_does(render: Render) -> None:
    grace = deployment(render())["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    services = yaml.safe_load((CHART.parent / "compose.yaml").read_text())["services"]
    assert {name: services[name]["stop_grace_period"] for name in ("worker", "simulator")} == dict.fromkeys(
        ("worker", "simulator"), f"{grace}s"
    )


def test_an_objects_own_label_wins_over_the_common_one_and_the_charts_over_both(render: Render) -> None:
    component = "app.kubernetes.io/component"
    own = {"team": "own", component: "x"}
    objects = render(
        {
            "commonLabels": {"team": "common", component: "y"},
            "podLabels": own,
            "smallPods": {"labels": own},
            "podMonitor": {"enabled": True, "labels": own},
            "simulator": {"enabled": True},
        }
    )
    labelled = [*pod_labels(objects), the(objects, "PodMonitor")["metadata"]["labels"]]
    assert {labels["team"] for labels in labelled} == {"own"}
    assert deployment(objects)["metadata"]["labels"]["team"] == "common"
    assert {labels[component] for labels in labelled} == {"worker", "simulator", "provision", "test"}


def test_the_broker_is_asked_about_for_readiness_alone(render: Render) -> None:
    worker = container(render())
    assert worker["startupProbe"]["httpGet"]["path"] == worker["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert worker["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_probes_follow_the_port_and_go_with_it(render: Render) -> None:
    objects = render({"settings": {"WORKER_HTTP_PORT": 9000}})
    assert container(objects)["ports"][0]["containerPort"] == 9000
    assert the(objects, "NetworkPolicy", "aichats-worker")["spec"]["ingress"][0]["ports"][0]["port"] == 9000
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
    [("job", True, "off"), ("nack", True, "off"), ("worker", True, "on"), ("none", True, "off"), ("job", False, "off")],
)
def test_streams_are_made_by_one_alone(render: Render, mode: str, jobs: bool, provisions: str) -> None:
    objects = render({"provision": {"mode": mode}, "settings": {"WORKER_JOBS": jobs}})
    kinds = [each["kind"] for each in objects]
    assert environment(objects)["WORKER_JOBS_PROVISION"] == provisions
    assert ("Job" in kinds) == (mode == "job" and jobs)
    assert ("Stream" in kinds) == (mode == "nack" and jobs)


def test_the_provision_job_gets_no_secret_of_the_provider(render: Render) -> None:
    names = [variable["name"] for variable in pods([the(render(FULL), "Job")])[0]["containers"][0]["env"]]
    assert "NATS_NKEY" in names
    assert not [name for name in names if name.startswith(("AICHATS_", "OPENAI_", "PROVIDER_"))]


def test_egress_is_to_the_ports_of_the_urls(render: Render) -> None:
    def ports(component: str) -> list[list[int]]:
        egress = the(render(FULL), "NetworkPolicy", component)["spec"]["egress"]
        return [[port["port"] for port in rule["ports"]] for rule in egress]

    assert ports("aichats-worker") == [[53, 53], [4223, 4222, 80], [443, 80, 8443], [8000], [3128]]
    assert ports("-provision") == ports("-test") == [[53, 53], [4223, 4222, 80], [3128]]
    assert ports("-simulator") == []


@pytest.mark.parametrize("values", MATRIX)
def test_every_pod_has_a_network_policy_of_its_own(render: Render, values: dict[str, Any]) -> None:
    """In a namespace that denies by default, a pod without one reaches nobody."""
    objects = render(values)
    policies = [each["spec"] for each in objects if each["kind"] == "NetworkPolicy"]
    for labels in pod_labels(objects):
        matching = [each for each in policies if each["podSelector"]["matchLabels"].items() <= labels.items()]
        assert len(matching) == 1, labels
        assert matching[0]["policyTypes"] == ["Ingress", "Egress"]


def test_the_provision_jobs_network_policy_comes_and_goes_with_it(render: Render) -> None:
    objects = render()
    job, policy = (the(objects, kind, "-provision")["metadata"]["annotations"] for kind in ("Job", "NetworkPolicy"))
    for annotation in ("helm.sh/hook", "helm.sh/hook-delete-policy"):
        assert policy[annotation] == job[annotation]
    assert int(policy["helm.sh/hook-weight"]) < int(job.get("helm.sh/hook-weight", 0))


def test_the_simulator_is_reached_by_the_workers_and_reaches_nobody(render: Render) -> None:
    objects = render({"simulator": {"enabled": True}})
    policy = the(objects, "NetworkPolicy", "-simulator")["spec"]
    (rule,) = policy["ingress"]
    assert [port["port"] for port in rule["ports"]] == [the(objects, "Service")["spec"]["ports"][0]["port"]]
    assert rule["from"] == [{"podSelector": deployment(objects)["spec"]["selector"]}]
    assert policy["egress"] == []


@pytest.mark.parametrize("values", MATRIX)
def test_a_container_that_fails_says_why_to_whoever_describes_its_pod(render: Render, values: dict[str, Any]) -> None:
    for pod in pods(render(values)):
        assert [each["terminationMessagePolicy"] for each in pod["containers"]] == ["FallbackToLogsOnError"]


def test_a_hook_that_fails_keeps_its_pods_for_an_hour_and_gives_up_where_it_must(render: Render) -> None:
    job = the(render(), "Job")["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["ttlSecondsAfterFinished"] == 3600
    rules = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
    (name,) = [each["name"] for each in job["template"]["spec"]["containers"]]
    # As commands/line.py has them: refused and wrongly set; not where nobody answers.
    given_up = {"containerName": name, "operator": "In", "values": [STATUS_ERROR, STATUS_USAGE]}
    assert rules["FailJob"]["onExitCodes"] == given_up
    assert rules["Ignore"]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    # Helm's own wait is five minutes.
    assert job["activeDeadlineSeconds"] < 300


def test_a_worker_that_hangs_is_replaced_without_a_drain(render: Render) -> None:
    assert container(render())["livenessProbe"]["terminationGracePeriodSeconds"] == 5
    assert "terminationGracePeriodSeconds" not in container(render())["readinessProbe"]


def test_a_worker_that_dies_of_its_first_requests_stops_the_rollout(render: Render) -> None:
    """A pod that is ready for a moment only is not available, and no old one goes before a new one is."""
    objects = render({"simulator": {"enabled": True}})
    spec = deployment(objects)["spec"]
    readiness = container(objects)["readinessProbe"]
    assert spec["minReadySeconds"] > readiness["periodSeconds"], "it is looked at again meanwhile"
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_a_worker_is_resized_in_place(render: Render) -> None:
    policies = container(render())["resizePolicy"]
    assert {each["resourceName"]: each["restartPolicy"] for each in policies} == {
        "cpu": "NotRequired",
        "memory": "NotRequired",
    }


@pytest.mark.parametrize("values", MATRIX)
def test_no_pod_keeps_the_cluster_autoscaler_from_removing_its_node(render: Render, values: dict[str, Any]) -> None:
    key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
    for template in pod_templates(render(values)):
        local = [each["name"] for each in template["spec"]["volumes"] if "emptyDir" in each and each["name"] != "more"]
        assert template["metadata"]["annotations"][key].split(",") == local


def test_annotations_of_the_values_win_over_the_charts(render: Render) -> None:
    key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
    objects = render({"podAnnotations": {key: "tmp,more"}, "smallPods": {"annotations": {"sidecar/inject": "false"}}})
    assert deployment(objects)["spec"]["template"]["metadata"]["annotations"] == {key: "tmp,more"}
    for kind, annotations in (("Job", 2), ("Pod", 4)):
        (template,) = pod_templates([the(objects, kind)])
        assert len(template["metadata"]["annotations"]) == annotations
        assert template["metadata"]["annotations"]["sidecar/inject"] == "false"


QUOTA = ("requests.cpu", "requests.memory", "limits.cpu", "limits.memory", "limits.ephemeral-storage")


@pytest.mark.parametrize("values", MATRIX)
def test_a_quota_of_any_resource_can_be_met_and_labels_that_admission_asks_for(
    render: Render, values: dict[str, Any]
) -> None:
    """A ResourceQuota refuses each container that does not name what it counts; a hook cannot be an exception."""
    given = {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"cpu": "1", "memory": "256Mi", "ephemeral-storage": "64Mi"},
    }
    asked = {"cost-center": "ai"}
    objects = render(
        values | {"resources": given, "podLabels": asked, "smallPods": {"resources": given, "labels": asked}}
    )
    for pod in pods(objects):
        for each in pod["containers"]:
            named = {f"{kind}.{name}" for kind, names in each["resources"].items() for name in names}
            assert named >= set(QUOTA)
    assert all(asked.items() <= labels.items() for labels in pod_labels(objects))


def test_an_upgrade_of_the_simulator_waits_for_its_answers(render: Render) -> None:
    objects = render({"simulator": {"enabled": True}, "settings": {"WORKER_DRAIN_TIMEOUT_SECONDS": 100}})
    simulator = the(objects, "Deployment", "-simulator")["spec"]
    assert simulator["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert simulator["template"]["spec"]["terminationGracePeriodSeconds"] == 112
    (container_,) = simulator["template"]["spec"]["containers"]
    assert container_["lifecycle"]["preStop"]["exec"]["command"][0] == "sleep"


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
            "settings": {
                "WORKER_SUBJECT_PREFIX": "x.v1",
                "WORKER_ACK_WAIT_SECONDS": 45,
                "WORKER_TIMEOUT_SECONDS_MAX": 1000,
            },
        }
    )
    streams = {each["spec"]["name"]: each["spec"] for each in objects if each["kind"] == "Stream"}
    consumers = {each["spec"]["durableName"]: each["spec"] for each in objects if each["kind"] == "Consumer"}
    assert {name: spec["subjects"] for name, spec in streams.items()} == {
        "AIJOBS_x_v1": ["x.v1.job.text.*.*", "x.v1.job.image.*.*"],
        "AIOUT_x_v1": ["x.v1.out.*.*"],
        "AIDEAD_x_v1": ["x.v1.dead.text.*.*", "x.v1.dead.image.*.*"],
    }
    assert {spec["replicas"] for spec in streams.values()} == {3}
    assert (streams["AIJOBS_x_v1"]["retention"], streams["AIJOBS_x_v1"]["duplicateWindow"]) == ("workqueue", "100ms")
    assert (streams["AIOUT_x_v1"]["maxAge"], streams["AIDEAD_x_v1"]["maxAge"]) == ("1500s", "720h")
    assert {name: spec["filterSubject"] for name, spec in consumers.items()} == {
        "ai-workers-text": "x.v1.job.text.*.*",
        "ai-workers-image": "x.v1.job.image.*.*",
    }
    assert {(spec["ackWait"], spec["maxDeliver"]) for spec in consumers.values()} == {("45s", -1)}
