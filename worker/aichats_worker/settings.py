"""The worker's settings: environment variables, read once, one sentence per rule (contract, section 11)."""

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from aichats_worker.errors import SetupError
from aichats_worker.provider.http.tls import TlsFiles
from aichats_worker.urls import check_proxy, masked_url, masked_urls, split_url

OURS: Final = ("WORKER_", "PROVIDER_", "AICHATS_", "OPENAI_")  # what begins so and is no setting is warned of
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_END: Final = re.compile(r"\s*\n\s*|\s*,\s*(?=[A-Za-z0-9!#$%&'*+.^_`|~-]+\s*:)")


class SettingsError(SetupError):
    """The environment is wrong; the message has one line for each rule that it breaks."""


def _on_off(value: object) -> object:
    return {"on": True, "off": False}.get(value.lower(), value) if isinstance(value, str) else value


OnOff = Annotated[bool, BeforeValidator(_on_off)]


class Settings(BaseSettings):
    """Every setting, under the name of its environment variable in lower case. Durations in seconds, sizes in bytes."""

    # An empty variable counts as unset: charts and compose files pass those on.
    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    nats_url: str = Field("nats://127.0.0.1:4222", repr=False, description="One or more servers, comma-separated.")
    nats_creds: str | None = Field(None, description="Path of a credentials file.")
    nats_nkey: str | None = Field(None, description="Path of an nkey seed file.")
    nats_user: str | None = Field(None, description="User name.")
    nats_password: SecretStr | None = Field(None, description="The user's password.")
    nats_token: SecretStr | None = Field(None, description="Token.")
    nats_ca: str | None = Field(None, description="Path of the CA bundle that signs the server's certificate.")
    nats_cert: str | None = Field(None, description="Path of the client certificate; goes with NATS_KEY.")
    nats_key: str | None = Field(None, description="Path of the client certificate's key; goes with NATS_CERT.")
    nats_tls_first: OnOff = Field(default=False, description="TLS before the server's first word.")
    nats_context: str | None = Field(
        None, description="A context of the `nats` command line. Commands read it, a worker does not."
    )
    nats_js_domain: str | None = Field(None, description="The JetStream domain of the streams.")
    nats_inbox_prefix: str = Field("_INBOX", description="The worker's own inbox prefix.")

    aichats_url: str = Field("https://ai-chats.org", description="The provider's origin.")
    aichats_cookie: SecretStr | None = Field(
        None, description="The operator's own cookie; never sent to an image's host."
    )
    aichats_user_agent: str | None = Field(None, description="User agent to send to the provider.")
    provider_proxy: SecretStr | None = Field(
        None, description="http://, https://, socks5:// or socks5h://; for the call and the image."
    )
    provider_connect_timeout_seconds: float = Field(10, gt=0, description="Longest time until the connection stands.")
    provider_first_byte_timeout_seconds: float = Field(
        60, gt=0, description="Longest time from there to the first byte."
    )
    provider_stall_timeout_seconds: float = Field(30, gt=0, description="Longest silence within an answer.")
    provider_circuit_failures: int = Field(5, ge=1, description="Failures in a row after which it is not asked.")
    provider_circuit_open_seconds: float = Field(30, gt=0, description="How long it is not asked then.")
    provider_calls_max: int = Field(3, ge=1, description="Calls for one request, before the first byte comes.")
    provider_calls_per_minute_max: int = Field(
        0, ge=0, description="Most calls in a minute, shared fairly between tenants; 0 for no limit."
    )
    provider_concurrent_calls_max: int = Field(
        0, ge=0, description="Most calls at once, shared fairly between tenants; 0 for no limit but the slots."
    )
    provider_image_max_bytes: int = Field(20 * 1024 * 1024, ge=1, description="A larger image is `too_large`.")
    provider_image_memory_max_bytes: int = Field(
        256 * 1024 * 1024, ge=1, description="Memory for all images at work together; more image requests wait."
    )
    provider_image_allow_private: OnOff = Field(
        default=False, description="Take images from loopback, private and link-local addresses."
    )

    provider_image_timeout_seconds: float = Field(
        0, ge=0, description="Longest time until an image's first byte; 0 for the request's own deadline."
    )
    provider_ca: str | None = Field(None, description="Path of a CA bundle to trust beside the system's.")
    provider_cert: str | None = Field(None, description="Path of a client certificate; goes with PROVIDER_KEY.")
    provider_key: str | None = Field(None, description="Path of that certificate's key; goes with PROVIDER_CERT.")

    openai_base_url: str = Field(
        "https://api.openai.com/v1", description="An OpenAI-compatible server, with /v1; a query is kept."
    )
    openai_api_key: SecretStr | None = Field(None, description="The key of that server; never sent to an image's host.")
    openai_headers: SecretStr | None = Field(None, description="More headers, `Name: value` by line or comma.")
    openai_image_base_url: str | None = Field(None, description="Another server for images; default OPENAI_BASE_URL.")
    openai_image_api_key: SecretStr | None = Field(None, description="The key of the server for images.")
    openai_text_models: str = Field(
        "gpt-4=gpt-4",
        description="`name=server's name` by comma: the models that requests may name; the first is the default.",
    )
    openai_image_models: str = Field(
        "dalle=dall-e-3", description="The same for images; `none` where the server makes none."
    )

    worker_providers: str = Field("aichats", description="Who is asked, in this order: aichats, openai.")
    worker_subject_prefix: str = Field("ai.v1", description="What every subject starts with.")
    worker_concurrency_max: int = Field(256, ge=1, description="Texts at work at once: slots.")
    worker_image_concurrency_max: int = Field(8, ge=1, description="Images at work at once: slots.")
    worker_timeout_seconds_max: float = Field(600, gt=0, description="Largest `timeout_seconds`, and its default.")
    worker_keepalive_seconds: float = Field(0.8, gt=0, description="Silence after which a `status` is sent.")
    worker_drain_timeout_seconds: float = Field(25, ge=0, description="Longest wait for what runs, on stop.")
    worker_jobs: OnOff = Field(default=True, description="Serve jobs; off where the broker has no JetStream.")
    worker_jobs_provision: OnOff = Field(default=True, description="Make or update streams and consumers at start.")
    worker_ack_wait_seconds: float = Field(30, ge=1, description="Silence after which a job goes to another worker.")
    worker_attempts_max: int = Field(5, ge=1, description="How many attempts of a job may fail.")
    worker_job_event_seconds: float = Field(
        0.2, ge=0, description="How long pieces of a job are joined into one event."
    )
    worker_retry_base_seconds: float = Field(
        1, gt=0, description="First wait before the next try; it doubles each time."
    )
    worker_retry_max_seconds: float = Field(30, gt=0, description="Longest wait before the next try.")
    worker_prompt_max_chars: int = Field(200_000, ge=1, description="Most characters of all prompts of a request.")
    worker_messages_max: int = Field(256, ge=1, description="Most messages of a request.")
    worker_allow_request_proxy: OnOff = Field(default=False, description="Let requests name a proxy.")
    worker_strict_tenant_inbox: OnOff = Field(default=False, description="Inboxes must start with `_INBOX.<tenant>.`")
    worker_http_host: str = Field("0.0.0.0", description="Address of probes, metrics and pages.")  # noqa: S104 - probes come from the node
    worker_http_port: int = Field(
        8080, ge=0, le=65535, description="Port of probes, metrics and pages; 0 turns them off."
    )
    worker_log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )
    worker_log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto` is console on a terminal, and else json."
    )

    @field_validator("nats_url")
    @classmethod
    def _servers(cls, urls: str) -> str:
        servers = [url.strip() for url in urls.split(",") if url.strip()]
        if not servers or not all(_is_server(url) for url in servers):
            raise ValueError(
                "must be servers such as nats://host:4222, joined by commas; "
                "a password that holds one of / ? # , goes into NATS_PASSWORD, or with % and two digits for each"
            )
        if len({url.startswith(("ws://", "wss://")) for url in servers}) > 1:
            raise ValueError("must be all websocket URLs, or none")
        return urls

    @field_validator("aichats_url")
    @classmethod
    def _origin(cls, url: str) -> str:
        parts = split_url(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("must be an origin such as https://ai-chats.org, without a path")
        if parts.username or parts.password:
            raise ValueError("must not hold credentials")
        return url.rstrip("/")

    @field_validator("openai_base_url", "openai_image_base_url")
    @classmethod
    def _base_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = split_url(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
            raise ValueError("must be a URL such as http://127.0.0.1:11434/v1")
        if parts.username or parts.password:
            raise ValueError("must not hold credentials; OPENAI_API_KEY is for them")
        return url.rstrip("/")

    @field_validator("openai_headers")
    @classmethod
    def _headers(cls, headers: SecretStr | None) -> SecretStr | None:
        if headers is not None:
            read_headers(headers.get_secret_value())
        return headers

    @field_validator("openai_text_models", "openai_image_models")
    @classmethod
    def _models(cls, table: str) -> str:
        read_models(table)
        return table

    @field_validator("worker_providers")
    @classmethod
    def _named(cls, names: str) -> str:
        wanted = _listed(names)
        if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= {"aichats", "openai"}:
            raise ValueError("must be aichats, openai or both by comma, each once")
        return ",".join(wanted)

    @field_validator("aichats_cookie", "openai_api_key", "openai_image_api_key")
    @classmethod
    def _header(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not secret.get_secret_value().isprintable():
            raise ValueError("must be one line of printable characters")
        return secret

    @field_validator("provider_proxy")
    @classmethod
    def _proxy(cls, proxy: SecretStr | None) -> SecretStr | None:
        if proxy is not None:
            check_proxy(proxy.get_secret_value())
        return proxy

    @field_validator("nats_js_domain")
    @classmethod
    def _token(cls, domain: str | None) -> str | None:
        if domain is not None and not domain.replace("-", "").replace("_", "").isalnum():
            raise ValueError("must be one token of letters, digits, - and _")
        return domain

    @field_validator("worker_subject_prefix", "nats_inbox_prefix")
    @classmethod
    def _tokens(cls, prefix: str) -> str:
        if not all(token and token.replace("-", "").replace("_", "").isalnum() for token in prefix.split(".")):
            raise ValueError("must be tokens of letters, digits, - and _, joined by dots")
        return prefix

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.nats_cert is None) != (self.nats_key is None):
            raise ValueError("NATS_CERT and NATS_KEY go together: set both or neither")
        if (self.provider_cert is None) != (self.provider_key is None):
            raise ValueError("PROVIDER_CERT and PROVIDER_KEY go together: set both or neither")
        TlsFiles(self.provider_ca, self.provider_cert, self.provider_key)
        if not self.text_models:
            raise ValueError("OPENAI_TEXT_MODELS must name at least one model")
        if (self.nats_user is None) != (self.nats_password is None):
            raise ValueError("NATS_USER and NATS_PASSWORD go together: set both or neither")
        if self.provider_image_memory_max_bytes < self.provider_image_max_bytes:
            raise ValueError("PROVIDER_IMAGE_MEMORY_MAX_BYTES cannot be smaller than PROVIDER_IMAGE_MAX_BYTES")
        if self.worker_retry_max_seconds < self.worker_retry_base_seconds:
            raise ValueError("WORKER_RETRY_MAX_SECONDS cannot be shorter than WORKER_RETRY_BASE_SECONDS")
        return self

    @property
    def nats_servers(self) -> list[str]:
        """The servers of NATS_URL."""
        return [url.strip() for url in self.nats_url.split(",") if url.strip()]

    @property
    def providers(self) -> list[str]:
        """The names of WORKER_PROVIDERS, in order."""
        return _listed(self.worker_providers)

    @property
    def text_models(self) -> dict[str, str]:
        """The table of OPENAI_TEXT_MODELS."""
        return read_models(self.openai_text_models)

    @property
    def image_models(self) -> dict[str, str]:
        """The table of OPENAI_IMAGE_MODELS."""
        return read_models(self.openai_image_models)

    @property
    def openai_extra_headers(self) -> dict[str, str]:
        """The headers of OPENAI_HEADERS."""
        return read_headers(self.openai_headers.get_secret_value()) if self.openai_headers else {}

    def masked(self) -> dict[str, str]:
        """Every setting by its variable's name, secrets and credentials in URLs masked: safe to print."""
        return {name.upper(): _shown(name, value) for name, value in self}


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def read_models(table: str) -> dict[str, str]:
    """Read `name=server's name` by comma; a bare name is its own. `none` is an empty table.

    Raises:
        ValueError: It is none, or names one twice.
    """
    if table.strip() in ("", "none"):
        return {}
    pairs = [(name.strip(), server.strip() or name.strip()) for name, _, server in _split_models(table)]
    models = dict(pairs)
    if not models or len(models) < len(pairs) or not all(name.isprintable() and name for name in models):
        raise ValueError("must be name=server's name by comma, each name once, such as gpt-4=gpt-4o,fast=gpt-4o-mini")
    return models


def _split_models(table: str) -> list[tuple[str, str, str]]:
    return [entry.partition("=") for entry in _listed(table)]


def read_headers(text: str) -> dict[str, str]:
    """Read headers by line or comma. A comma ends one only where another `Name:` follows.

    Raises:
        ValueError: It is none; the message repeats nothing of it.
    """
    headers: dict[str, str] = {}
    for line in _HEADER_END.split(text.strip()):
        name, colon, value = line.partition(":")
        if not (colon and _HEADER_NAME.fullmatch(name.strip()) and value.strip().isprintable()):
            raise ValueError("must be headers such as api-key: value, by line or comma")
        headers[name.strip()] = value.strip()
    return headers


def _shown(name: str, value: object) -> str:
    if isinstance(value, SecretStr):
        return masked_url(value.get_secret_value()) if name == "provider_proxy" else "**********"
    if name == "nats_url":
        return masked_urls(str(value))
    if name in ("openai_base_url", "openai_image_base_url") and value is not None:
        return masked_url(str(value))  # a query may hold a key
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value)


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        _ = parts.port  # raises ValueError where the port is no number
    except ValueError:
        return False
    return bool(parts.hostname) and "@" not in parts.path + parts.query + parts.fragment


def load_settings(**overrides: Any) -> Settings:
    """Read the environment.

    Args:
        overrides: Settings by field name that win over the environment; for the demo and tests.

    Raises:
        SettingsError: One line for each rule that is broken.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [_sentence(detail["loc"], detail["msg"]) for detail in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """Return a sentence for each variable that looks like a setting and is none, with the one that was meant."""
    known = [name.upper() for name in Settings.model_fields]
    wrong = sorted(name for name in environment if name.startswith(OURS) and name not in known)
    return [f"{name} is no setting{_meant(name, known)}." for name in wrong]


def _meant(name: str, known: list[str]) -> str:
    own_name = name.partition("_")[2]  # PROVIDER_PROXY for AICHATS_PROXY: a prefix is easily mistaken
    same = [each for each in known if each.partition("_")[2] == own_name]
    close = same or difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; {close[0]} was probably meant" if close else ""


def settings_without_environment(**values: Any) -> Settings:
    """Make settings of `values` and the defaults alone; for the demo, which must not reach a real broker.

    Raises:
        pydantic.ValidationError: A value is wrong.
    """
    return _WithoutEnvironment(**values)


def plain(secret: SecretStr | None) -> str | None:
    """Return what a secret setting holds, for whoever has to send it; None where it is not set."""
    return secret.get_secret_value() if secret is not None else None


class _WithoutEnvironment(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings passes all sources by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _sentence(loc: tuple[int | str, ...], message: str) -> str:
    reason = message.removeprefix("Value error, ").removeprefix("Input should be ")
    if not loc:
        return f"{reason}."
    reason = reason if reason.startswith("must") else f"must be {reason}"
    return f"{str(loc[0]).upper()} {reason}."
