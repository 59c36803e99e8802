"""What a requester may ask for (contract, section 2).

These models check the shape of a request. The lengths that a worker accepts are its settings, so the worker checks
those after the shape and answers `too_large`.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class _Shape(BaseModel):
    # Unknown fields are ignored, so that older workers serve newer clients. Inputs stay out of error texts: a prompt is
    # somebody's secret.
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _null_counts_as_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


class Message(_Shape):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(repr=False)


class _Request(_Shape):
    """The fields that text and image requests share. Exactly one of `prompt` and `messages` is given."""

    prompt: NonEmpty | None = Field(
        default=None, repr=False, description="The prompt. Not blank. Not together with `messages`."
    )
    messages: list[Message] | None = Field(
        default=None,
        min_length=1,
        description="The history in order, the last message last. Not together with `prompt`.",
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

    default_model: ClassVar[str]

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        if not self.conversation[-1].content.strip():
            field = "prompt" if self.prompt is not None else "the last message"
            raise ValueError(f"{field} must not be blank")
        return self

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The request as messages: a prompt is one message of the user's. Never empty."""
        if self.messages is not None:
            return tuple(self.messages)
        return (Message(role="user", content=self.prompt or ""),)


class TextRequest(_Request):
    """A request for text: `ai.v1.req.text.<tenant>`, `ask` or `job`."""

    default_model = "gpt-4"
    model: Literal["gpt-4"] = "gpt-4"


class ImageRequest(_Request):
    """A request for an image: `ai.v1.req.image.<tenant>`, `ask` or `job`. Of `messages`, the last is the prompt."""

    default_model = "dalle"
    model: Literal["dalle"] = "dalle"
