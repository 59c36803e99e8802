"""Settings: the contract's names and defaults, one sentence for each broken rule, nothing secret shown."""

import pytest

from aichats_worker.settings import SettingsError, load_settings, unknown_variables
from aichats_worker.urls import masked_urls
from tests.conftest import SpawnWorker


def test_the_defaults_are_the_contracts() -> None:
    settings = load_settings()
    assert settings.nats_servers == ["nats://127.0.0.1:4222"]
    assert settings.aichats_url == "https://ai-chats.org"
    assert (
        settings.provider_connect_timeout_seconds,
        settings.provider_first_byte_timeout_seconds,
        settings.provider_stall_timeout_seconds,
    ) == (10, 60, 30)
    assert settings.provider_image_max_bytes == 20 * 1024 * 1024
    assert (settings.worker_concurrency_max, settings.worker_image_concurrency_max) == (256, 8)
    assert (settings.worker_timeout_seconds_max, settings.worker_keepalive_seconds) == (600, 0.8)
    assert (settings.worker_ack_wait_seconds, settings.worker_attempts_max) == (30, 5)
    assert settings.worker_job_event_seconds == 0.2
    assert (settings.worker_jobs, settings.worker_jobs_provision, settings.worker_strict_tenant_inbox) == (
        True,
        True,
        False,
    )
    assert settings.worker_http_port == 8080


def test_a_variable_is_read_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_JOBS", "off")
    monkeypatch.setenv("NATS_URL", "nats://a:4222, nats://b:4222")
    monkeypatch.setenv("AICHATS_COOKIE", "")
    settings = load_settings()
    assert settings.worker_jobs is False
    assert settings.nats_servers == ["nats://a:4222", "nats://b:4222"]
    assert settings.aichats_cookie is None, "an empty variable counts as unset"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("NATS_URL", "nats://user:s3/cret@h", "NATS_URL must be servers such as nats://host:4222, joined by commas;"),
        ("NATS_URL", "user:12/cret@h", "NATS_URL must be servers such as nats://host:4222, joined by commas;"),
        ("NATS_URL", "nats://user:s3,cret@h", "NATS_URL must be servers such as nats://host:4222, joined by commas;"),
        ("AICHATS_URL", "ftp://x", "AICHATS_URL must be an origin such as https://ai-chats.org, without a path."),
        ("AICHATS_URL", "https://u:p@x", "AICHATS_URL must not hold credentials."),
        (
            "PROVIDER_PROXY",
            "ftp://x",
            "PROVIDER_PROXY must start with one of http://, https://, socks5://, socks5h://.",
        ),
        ("PROVIDER_PROXY", "http://", "PROVIDER_PROXY must name a host."),
        ("WORKER_CONCURRENCY_MAX", "0", "WORKER_CONCURRENCY_MAX must be greater than or equal to 1."),
        ("WORKER_KEEPALIVE_SECONDS", "x", "WORKER_KEEPALIVE_SECONDS must be a valid number, unable to parse string"),
        ("WORKER_LOG_FORMAT", "xml", "WORKER_LOG_FORMAT must be 'auto', 'console' or 'json'."),
        ("WORKER_SUBJECT_PREFIX", "ai..v1", "WORKER_SUBJECT_PREFIX must be tokens"),
        ("WORKER_PROVIDERS", "aichats,claude", "WORKER_PROVIDERS must be aichats, openai or both by comma, each once."),
        ("WORKER_PROVIDERS", "openai,openai", "WORKER_PROVIDERS must be aichats, openai or both by comma, each once."),
        (
            "OPENAI_BASE_URL",
            "http://u:p@x/v1",
            "OPENAI_BASE_URL must not hold credentials; OPENAI_API_KEY is for them.",
        ),
        ("OPENAI_HEADERS", "no header", "OPENAI_HEADERS must be headers such as api-key: value, by line or comma."),
        ("OPENAI_TEXT_MODELS", "a=b,a=c", "OPENAI_TEXT_MODELS must be name=server's name by comma, each name once"),
        ("OPENAI_TEXT_MODELS", "none", "OPENAI_TEXT_MODELS must name at least one model."),
        ("PROVIDER_CA", "/none.pem", "PROVIDER_CA must be a file of certificates that can be read."),
        ("PROVIDER_KEY", "k.pem", "PROVIDER_CERT and PROVIDER_KEY go together: set both or neither."),
        ("NATS_CERT", "c.pem", "NATS_CERT and NATS_KEY go together: set both or neither."),
        ("NATS_USER", "u", "NATS_USER and NATS_PASSWORD go together: set both or neither."),
        ("WORKER_RETRY_MAX_SECONDS", "0.5", "WORKER_RETRY_MAX_SECONDS cannot be shorter than WORKER_RETRY_BASE"),
    ],
)
def test_a_wrong_setting_gets_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    (line,) = str(caught.value).splitlines()
    assert line.startswith(sentence)


def test_tables_and_headers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_PROVIDERS", " aichats , openai ")
    monkeypatch.setenv("OPENAI_TEXT_MODELS", "gpt-4=gpt-4o, fast = org/mini:8b ,bare")
    monkeypatch.setenv("OPENAI_IMAGE_MODELS", "none")
    monkeypatch.setenv("OPENAI_HEADERS", "api-key: s3cret, HTTP-Referer: https://x.org/a,b\nX-Title: A, B")
    settings = load_settings()
    assert settings.providers == ["aichats", "openai"]
    assert settings.text_models == {"gpt-4": "gpt-4o", "fast": "org/mini:8b", "bare": "bare"}
    assert settings.image_models == {}
    assert settings.openai_extra_headers == {
        "api-key": "s3cret", "HTTP-Referer": "https://x.org/a,b", "X-Title": "A, B",
    }  # fmt: skip
    assert "s3cret" not in str(settings.masked())


def test_every_broken_rule_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_JOBS", "maybe")
    monkeypatch.setenv("WORKER_ACK_WAIT_SECONDS", "-1")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["WORKER_JOBS", "WORKER_ACK_WAIT_SECONDS"]


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://us3r:s3cret@h:4222,nats://t0ken@h2:4222")
    monkeypatch.setenv("NATS_TOKEN", "s3cret")
    monkeypatch.setenv("AICHATS_COOKIE", "s3cret")
    monkeypatch.setenv("PROVIDER_PROXY", "socks5h://me:s3cret@proxy:1080")
    settings = load_settings()
    shown = str(settings.masked())
    assert "nats://***@h:4222,nats://***@h2:4222" in shown
    assert "socks5h://***@proxy:1080" in shown
    for secret in ("s3cret", "us3r", "t0ken"):
        assert secret not in shown
    assert "s3cret" not in repr(settings).replace("nats://us3r:s3cret@", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://h:4222", "nats://h:4222"),
        ("h:4222,tls://g", "h:4222,tls://g"),
        ("user:s3cret@h:4222", "***@h:4222"),
        ("s3cret@h", "***@h"),
        ("nats://user:s3/cret@h:4222", "nats://***@h:4222"),
        ("user:s3/cret@h", "***@h"),
        ("nats://user:s3?cr#et@h", "nats://***@h"),
        ("nats://user:s3@cret@h", "nats://***@h"),
        ("user:s3://cret@h", "***@h"),
        ("nats://user:s3,cret@h", "***,***@h"),
        ("nats://user:s3cret@h, nats://g", "nats://***@h,nats://g"),
        ("nats://g,nats://user:s3cret@h", "nats://g,nats://***@h"),
        ("nats://h?token=s3cret", "nats://h"),
        ("ws://user:s3cret@h:80/path", "ws://***@h:80/path"),
    ],
)
def test_nothing_before_the_last_at_of_a_url_is_shown(url: str, shown: str) -> None:
    assert masked_urls(url) == shown


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AICHATS_PROXY", "PROVIDER_PROXY"),
        ("WORKER_CONCURENCY_MAX", "WORKER_CONCURRENCY_MAX"),
        ("OPENAI_API_KEYS", "OPENAI_API_KEY"),
    ],
)
def test_an_unknown_variable_is_named_with_the_one_that_was_meant(name: str, meant: str) -> None:
    assert unknown_variables([name, "PATH", "NATS_URL", "WORKER_JOBS"]) == [
        f"{name} is no setting; {meant} was probably meant."
    ]


def test_an_unknown_variable_that_is_like_none_is_named_all_the_same() -> None:
    assert unknown_variables(["WORKER_XYZZY"]) == ["WORKER_XYZZY is no setting."]


async def test_a_worker_warns_of_an_unknown_variable_at_its_start(spawn_worker: SpawnWorker) -> None:
    worker = await spawn_worker(WORKER_MAX_PROMPT="3")
    assert "WORKER_MAX_PROMPT is no setting" in worker.log
