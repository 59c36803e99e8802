"""What a requester may ask for (contract, section 2).

These models check the shape of a request. The lengths that a worker accepts are its settings, so the worker checks
those after the shape and answers `too_large`; which models there are, and what they can honour, is the worker's too.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from aichats_schemas.subjects import Kind

INT64_MAX = 2**63 - 1
MODELS_NAMED_MAX = 50


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _joined(content: object) -> object:
    """Join a message's text parts."""
    if not isinstance(content, list):
        return content
    texts = [text for part in content if isinstance(text := _text_of(part), str)]
    if len(texts) < len(content):
        raise ValueError('must be a string or a list of parts {"type":"text","text":"..."}')
    return "".join(texts)


def _text_of(part: Any) -> Any:
    return part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None


def _as_list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


NotBlank = Annotated[str, StringConstraints(min_length=1), AfterValidator(_not_blank)]
_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
Content = Annotated[
    NotBlank,
    BeforeValidator(_joined),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": _TEXT_PART}]}),
]
Role = Annotated[
    Literal["system", "user", "assistant"],
    BeforeValidator(lambda role: "system" if role == "developer" else role),
    WithJsonSchema({"enum": ["system", "user", "assistant", "developer"], "description": "`developer` is `system`."}),
]
_WORD = {"type": "string", "minLength": 1}
Stop = Annotated[
    list[Annotated[str, StringConstraints(min_length=1)]],
    BeforeValidator(_as_list),
    Field(min_length=1, max_length=4),
    WithJsonSchema({"anyOf": [_WORD, {"type": "array", "items": _WORD, "minItems": 1, "maxItems": 4}]}),
]


class _Shape(BaseModel):
    # Unknown fields are ignored, so that older workers serve newer clients. Inputs stay out of error texts: a prompt is
    # somebody's secret.
    model_config = ConfigDict(
        extra="ignore", strict=True, frozen=True, hide_input_in_errors=True, serialize_by_alias=True
    )


def _without_nulls(data: Any) -> Any:
    """Null counts as absent."""
    if not isinstance(data, dict) or None not in data.values():
        return data
    return {key: value for key, value in data.items() if value is not None}


class Message(_Shape):
    """One message of a conversation. Its content is a string, or a list of text parts, which are joined."""

    role: Role
    content: Content = Field(repr=False)

    @model_validator(mode="before")
    @classmethod
    def _null_counts_as_absent(cls, data: Any) -> Any:
        return _without_nulls(data)


class _Request(_Shape):
    """The fields that text and image requests share. Exactly one of `prompt` and `messages` is given."""

    prompt: NotBlank | None = Field(
        default=None, repr=False, description="The prompt. Not blank. Not together with `messages`."
    )
    messages: list[Message] | None = Field(
        default=None,
        min_length=1,
        description="The history in order, the last message last. Not together with `prompt`.",
    )
    model: str | None = Field(
        default=None, description="One of the models that the worker's INFO lists; the first of them where none is."
    )
    timeout_seconds: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="The whole budget in seconds, queue wait included; bounded by the worker's maximum.",
    )
    proxy: str | None = Field(
        default=None,
        min_length=1,
        repr=False,
        description="Proxy URL for this request; `forbidden` unless the worker allows it.",
    )
    metadata: dict[str, str] | None = Field(
        default=None, repr=False, description="Echoed in the final event; at most 16 entries."
    )

    # What a kind has beside the fields above is its options: the names on the wire, and the attributes.
    option_names: ClassVar[frozenset[str]] = frozenset()
    _known: ClassVar[frozenset[str]] = frozenset()
    _attributes: ClassVar[dict[str, str]] = {}

    @field_validator("model")
    @classmethod
    def _is_there(cls, model: str | None, info: ValidationInfo) -> str | None:
        """Whoever knows the models passes them as context: `model_validate_json(body, context={"models": ...})`."""
        models = (info.context or {}).get("models")
        if models is not None and model is not None and model not in models:
            raise ValueError(f"not found; there is {', '.join(list(models)[:MODELS_NAMED_MAX]) or 'none of this kind'}")
        return model

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        own = {field.alias or name: name for name, field in cls.model_fields.items() if name not in _FIELDS}
        cls._attributes, cls.option_names = own, frozenset(own)
        cls._known = _FIELDS | cls.option_names

    @model_validator(mode="wrap")
    @classmethod
    def _whole(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """All that concerns more than one field; each validator of its own would cost as much as the fields."""
        data = _without_nulls(data)
        request = handler(data)
        if isinstance(data, dict):
            kept = request.__dict__  # where cached properties keep their values; a private attribute costs 8 us
            if data.keys() <= _FIELDS:  # as most are
                kept["options"], kept["ignored"] = {}, ()
            else:
                kept["ignored"] = tuple(key for key in data if key not in cls._known)
        if (request.prompt is None) == (request.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        return request

    @cached_property
    def options(self) -> dict[str, Any]:
        """The options that ask for something, by their names on the wire: neither absent nor what is so anyway."""
        sent = self.model_fields_set
        return {
            name: value
            for name, attribute in type(self)._attributes.items()  # noqa: SLF001 - its own
            if attribute in sent
            and (value := getattr(self, attribute)) is not None
            and value is not False
            and not (name == "n" and value == 1)
        }

    @cached_property
    def ignored(self) -> tuple[str, ...]:
        """The fields that were sent and are not known, in their order."""
        return ()


_FIELDS = frozenset(_Request.model_fields)


class TextRequest(_Request):
    """A request for text: `ai.v1.req.text.<tenant>`, `ask` or `job`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "Say hi"},
                {
                    "messages": [
                        {"role": "system", "content": "Answer in French."},
                        {"role": "user", "content": "Say hi"},
                    ],
                    "model": "gpt-4",
                    "temperature": 0.2,
                    "timeout_seconds": 60,
                    "metadata": {"ticket": "4711"},
                },
            ]
        }
    )

    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1, le=INT64_MAX, description="Of the answer.")
    stop: Stop | None = Field(default=None, repr=False, description="Where the answer is to end: up to 4 strings.")
    seed: int | None = Field(default=None, ge=-INT64_MAX, le=INT64_MAX)
    json_object: bool | None = Field(default=None, alias="json", description="The answer is to be a JSON object.")
    reasoning: bool | None = Field(default=None, description="The model's reasoning comes too.")


class ImageRequest(_Request):
    """A request for images: `ai.v1.req.image.<tenant>`, `ask` or `job`. Of `messages`, the last is the prompt."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "A red bicycle"}, {"prompt": "A red bicycle", "n": 2}]}
    )

    size: str | None = Field(
        default=None, pattern=r"^[1-9][0-9]{1,4}x[1-9][0-9]{1,4}$", description="Width and height, `1024x1024`."
    )
    quality: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_-]{1,32}$", description="A word, as `hd` or `high`."
    )
    n: int | None = Field(default=None, ge=1, le=4, description="How many images.")


MODELS: Final[Mapping[Kind, type[TextRequest] | type[ImageRequest]]] = {"text": TextRequest, "image": ImageRequest}
OPTION_NAMES = TextRequest.option_names | ImageRequest.option_names
