"""`aichats-worker docs`: the contract, for a repository or a generator, without a broker."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from aichats_worker.app import App
from aichats_worker.commands.line import app
from aichats_worker.settings import load_settings


def printed(*arguments: str, **environment: str) -> str:
    ran = CliRunner().invoke(app, ["docs", *arguments], env=environment)
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_it_prints_the_document_in_each_form() -> None:
    document = App(load_settings()).contract.document()
    assert yaml.safe_load(printed()) == document
    assert json.loads(printed("--format", "json")) == document
    assert printed("--format", "html").startswith("<!doctype html>")


def test_it_goes_by_the_settings_and_shows_no_secret() -> None:
    said = printed(
        WORKER_SUBJECT_PREFIX="team.a", NATS_URL="nats://worker:mk-word@broker.example:4222", WORKER_JOBS="off"
    )
    assert "team.a.req.text.{tenant}" in said
    assert "broker.example:4222" in said
    assert "mk-word" not in said
    assert ".job." not in said


def test_another_form_is_wrong_usage() -> None:
    assert CliRunner().invoke(app, ["docs", "--format", "pdf"]).exit_code == 2


@pytest.mark.parametrize("wrong", ["..", "a b"])
def test_a_wrong_setting_is_a_sentence(wrong: str) -> None:
    ran = CliRunner().invoke(app, ["docs"], env={"WORKER_SUBJECT_PREFIX": wrong})
    assert ran.exit_code == 2
    assert "WORKER_SUBJECT_PREFIX" in ran.output
