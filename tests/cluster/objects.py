"""What the tests put on the cluster beside the chart, and the chart's values; tests/chart holds both to the schemas."""

import os
from typing import Any

RELEASE = "workers"
NATS_IMAGE = "nats:2.15-alpine"
COOKIE = {"name": "provider", "key": "cookie"}
_LABELS = {"app.kubernetes.io/name": "nats"}


def namespace(name: str) -> dict[str, Any]:
    """A namespace that lets in nothing but what the `restricted` policy allows."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def nats() -> list[dict[str, Any]]:
    """A nats-server with JetStream that forgets with its pod; K8S_TEST_NATS_IMAGE names another image."""
    container = {
        "name": "nats",
        "image": os.environ.get("K8S_TEST_NATS_IMAGE", NATS_IMAGE),
        "args": ["--jetstream", "--store_dir", "/data", "--http_port", "8222"],
        "ports": [{"name": "nats", "containerPort": 4222, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8222}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "1Gi"}}],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "nats", "labels": _LABELS},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": _LABELS},
            "template": {"metadata": {"labels": _LABELS}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "nats", "labels": _LABELS},
        "spec": {"selector": _LABELS, "ports": [{"name": "nats", "port": 4222, "targetPort": "nats"}]},
    }
    return [deployment, service]


def values(image: str, **more: Any) -> dict[str, Any]:
    """Two workers from `image` (`name:tag` or `name@sha256:…`) on that server, with the simulator as their provider."""
    name, at, digest = image.partition("@")
    tag = ""
    if not at and ":" in name.rpartition("/")[2]:
        name, _, tag = name.rpartition(":")
    return {
        "image": {"repository": name, "tag": tag, "digest": digest},
        "settings": {"NATS_URL": "nats://nats:4222"},
        "scaling": {"replicas": 2},
        "simulator": {"enabled": True},
        # Any cluster will do, a single small node too.
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
    } | more


def secret(value: str) -> dict[str, Any]:
    """A cookie for the provider, and how the chart takes it is `COOKIE`."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": COOKIE["name"]},
        "stringData": {COOKIE["key"]: value},
    }


def eviction(pod: str, namespace: str) -> dict[str, Any]:
    """What `kubectl drain` asks for each pod."""
    return {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
