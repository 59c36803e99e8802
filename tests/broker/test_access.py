"""The files that say who the worker is: a wrong one is a sentence, and it is looked at again at each connect."""

from pathlib import Path

import pytest
import trustme

from aichats_worker import login
from aichats_worker.broker.access import Access, AccessError
from aichats_worker.settings import load_settings
from tests.broker.identities import Key, Operator
from tests.conftest import SpawnWorker

GOOD = Operator().credentials()
JWT, SEED = GOOD.split("-----BEGIN USER NKEY SEED-----")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "holds no user JWT"),
        ("-----BEGIN USER NKEY SEED-----" + SEED, "holds no user JWT"),
        (JWT, "holds no seed"),
        (JWT + "-----BEGIN USER NKEY SEED-----\nSUAX\n------END USER NKEY SEED------\n", "no seed that can be read"),
        (None, "no such file or directory"),
    ],
)
def test_credentials_that_cannot_be_used_are_a_sentence_that_names_the_setting(
    file: Path, content: str | None, sentence: str
) -> None:
    if content is not None:
        file.write_text(content)
    with pytest.raises(AccessError, match=f"^NATS_CREDS .*{sentence}"):
        Access([], creds=str(file)).identity()


@pytest.mark.parametrize("content", ["", "SUAX", "\xff\xfe", "not a seed at all"])
def test_a_seed_that_cannot_be_read_is_not_repeated(file: Path, content: str) -> None:
    file.write_text(content, encoding="latin-1")
    with pytest.raises(AccessError, match=r"^NATS_NKEY .* holds no seed that can be read$"):
        Access([], nkey=str(file)).identity()


def test_the_public_key_is_that_of_the_seed_that_the_file_holds_now(file: Path) -> None:
    access = Access([], nkey=str(file))
    for key in (Key("U"), Key("U")):
        file.write_text(key.seed + "\n")
        assert access.identity().public_key == key.public


def test_certificates_that_cannot_be_used_are_a_sentence(tmp_path: Path) -> None:
    ca = trustme.CA()
    for name in ("a", "b"):
        issued = ca.issue_cert(f"{name}@example.org")
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}-key.pem"))
    path = {name: str(tmp_path / f"{name}.pem") for name in ("a", "b", "a-key", "b-key", "none", "empty")}
    Path(path["empty"]).write_text("")
    assert Access([], cert=path["a"], key=path["a-key"]).identity().tls is not None
    for access, sentence in (
        (Access([], ca=path["none"]), "NATS_CA .*none.pem: no such file or directory"),
        (Access([], ca=path["empty"]), "NATS_CA .*empty.pem: "),
        (Access([], cert=path["a"], key=path["b-key"]), "NATS_CERT .* with NATS_KEY .*: key values mismatch"),
        (Access([], cert=path["a"], key=path["none"]), "NATS_CERT .* with NATS_KEY .*: no such file or directory"),
    ):
        with pytest.raises(AccessError, match=f"^{sentence}"):
            access.identity()


@pytest.mark.parametrize(
    ("url", "servers", "user", "password", "token"),
    [
        ("nats://u:p@a:1,nats://b:2", ["nats://a:1", "nats://b:2"], "u", "p", None),
        ("nats://a:1,u:s%2Fc%40r%25t@b:2", ["nats://a:1", "nats://b:2"], "u", "s/c@r%t", None),
        ("nats://to%2Fken@a:1", ["nats://a:1"], None, None, "to/ken"),
        ("tls://[::1]:4222", ["tls://[::1]:4222"], None, None, None),
        ("ws://u:p@a:8080/nats", ["ws://a:8080/nats"], "u", "p", None),
    ],
)
def test_credentials_in_a_url_hold_for_all_servers(
    url: str, servers: list[str], user: str | None, password: str | None, token: str | None
) -> None:
    access = login.access(load_settings(nats_url=url))
    assert (access.servers, access.user, access.password, access.token) == (servers, user, password, token)
    assert "s/c" not in repr(access)


def test_a_setting_of_its_own_goes_before_a_url() -> None:
    access = login.access(load_settings(nats_url="nats://u:p@a:1", nats_token="t"))
    assert (access.user, access.password, access.token) == (None, None, "t")


async def test_a_wrong_file_ends_the_start_with_one_sentence_and_status_2(
    file: Path, spawn_worker: SpawnWorker
) -> None:
    file.write_text(JWT)
    worker = await spawn_worker(ready=False, NATS_CREDS=str(file))
    assert await worker.wait() == 2
    said = [line for line in worker.log.splitlines() if not line.startswith("{")]  # beside the log's own lines
    assert said == [f"NATS_CREDS {file} holds no seed"]
