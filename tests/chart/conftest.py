"""Renders the chart with the real helm."""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.chart.written import CHART

Objects = list[dict[str, Any]]
Render = Callable[..., Objects]


class ChartRefused(Exception):
    """Helm's own words."""


def helm(*arguments: str, given: str = "") -> str:
    """Run helm; `given` is its standard input."""
    found = shutil.which("helm", path=f"{CHART.parent / '.tools'}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.exit("helm is missing: install it (helm.sh/docs/intro/install) or put it into .tools/", returncode=1)
    done = subprocess.run([found, *arguments], input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChartRefused(done.stderr)
    return done.stdout


@functools.cache
def _rendered(values: str, release: str, kubernetes: str) -> str:
    # Many tests look at the same few renderings, each from a side of its own.
    return helm("template", release, str(CHART), "-f", "-", "--kube-version", kubernetes, "-n", "ai", given=values)


class OnceEach(yaml.CSafeLoader):
    """Refuses a key that stands twice, as kustomize and Helm's post-renderers do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice among {keys}"
        return super().construct_mapping(node, deep)


@pytest.fixture
def render() -> Render:
    """Render the chart with values, as its objects."""

    def call(values: dict[str, Any] | None = None, *, release: str = "chat", kubernetes: str = "1.37.0") -> Objects:
        text = _rendered(json.dumps(values or {}), release, kubernetes)
        return [document for document in yaml.load_all(text, Loader=OnceEach) if document]

    return call


def the(objects: Objects, kind: str, name: str = "") -> dict[str, Any]:
    """The only object of a kind whose name ends with `name`."""
    found = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    assert len(found) == 1, f"{len(found)} objects of kind {kind} named …{name}"
    return found[0]


def deployment(objects: Objects) -> dict[str, Any]:
    return the(objects, "Deployment", "aichats-worker")


def container(objects: Objects) -> dict[str, Any]:
    found: dict[str, Any] = deployment(objects)["spec"]["template"]["spec"]["containers"][0]
    return found


def environment(objects: Objects) -> dict[str, Any]:
    """The worker's variables: a value, or the reference to a secret's key."""
    return {
        variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container(objects)["env"]
    }
