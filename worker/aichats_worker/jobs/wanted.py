"""What a stream or consumer is to be, and what differs in one that is there. Pure: asks nobody."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

Config = dict[str, Any]  # as the broker's API has it: durations in nanoseconds

# A queue that takes nothing: it is made so, and opened once its consumers are there.
CLOSED_MAX_BYTES: Final = 1

_DURATIONS: Final = ("max_age", "duplicate_window", "ack_wait")
# The broker cannot change these: the stream or consumer would have to be made anew.
_FIXED: Final = ("retention", "storage", "ack_policy", "deliver_policy", "deliver_subject")
_ANEW: Final = "it would have to be deleted and made anew"


def nanoseconds(seconds: float) -> int:
    """Turn seconds into what the broker's API takes."""
    return round(seconds * 1e9)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between what is there and what is wanted.

    Attributes:
        what: The stream or consumer.
        field: The setting; empty where the whole thing is missing.
        old: What is there.
        new: What is wanted.
        refusal: Why it is not changed, or None.
        note: Why it is wanted, where that is not plain.
    """

    what: str
    field: str
    old: Any = None
    new: Any = None
    refusal: str | None = None
    note: str = ""

    def __str__(self) -> str:
        sentence = f"{self.what}: make it" if not self.field else f"{self.what}: {self.field} {self._step()}"
        sentence += f" ({self.note})" if self.note else ""
        return f"{sentence} (refused: {self.refusal})" if self.refusal else sentence

    def _step(self) -> str:
        return " -> ".join(_shown(self.field, value) for value in (self.old, self.new))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one stream or consumer is to be. All that is not named here is the operator's, and stays as it is.

    Attributes:
        stream: Its stream.
        name: The consumer; empty for the stream itself.
        prefix: Of the subjects that may be its own.
        always: Holds whoever made it.
        first: Holds where it is made; afterwards it is the operator's.
        chosen: The operator's choice now.
        least: May be more, or 0 for no bound.
        note: Why, where that is not plain.
        numbered: Its messages are known by their numbers: none comes again where it is made anew.
    """

    stream: str
    name: str
    prefix: str
    always: Config
    first: Config
    chosen: Config
    least: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    numbered: bool = False

    @property
    def what(self) -> str:
        """How it is called in sentences."""
        return f"{self.stream}/{self.name}" if self.name else self.stream

    @property
    def config(self) -> Config:
        """What it is made of."""
        return self.always | self.first | dict(self.least) | self.chosen

    def changes(self, info: Mapping[str, Any] | None) -> list[Change]:
        """Return what differs in the broker's description of it; None where it is missing."""
        if info is None:
            return [Change(self.what, "", note=self.note)]
        return [
            Change(self.what, name, old, new, self._refusal(name, old, new, info), self._why(name))
            for name, old, new in self._differences(info["config"])
        ]

    def _why(self, name: str) -> str:
        return self.note if name in self.least else ""

    def _differences(self, config: Config) -> Iterator[tuple[str, Any, Any]]:
        for name, new in (self.always | self.chosen).items():
            if _plain(config.get(name)) != _plain(new):
                yield name, config.get(name), new
        for name, least in self.least.items():
            if 0 < config.get(name, 0) < least:
                yield name, config[name], least
        if is_closed(config) and "max_bytes" not in self.chosen:
            yield "max_bytes", CLOSED_MAX_BYTES, self.first["max_bytes"]

    def _refusal(self, name: str, old: Any, new: Any, info: Mapping[str, Any]) -> str | None:
        if name in _FIXED:
            return _ANEW if self.name else f"{_ANEW}, with all that is in it"
        if name == "subjects" and not _all_ours(old, self.prefix):
            return "they are not this prefix's: the stream is somebody else's, and is left as it is"
        return _loss(name, new, info)


def is_closed(config: Config) -> bool:
    """Say whether a stream was left closed by somebody who could not make all that belongs to it."""
    return config.get("max_bytes") == CLOSED_MAX_BYTES


def _all_ours(subjects: list[str] | None, prefix: str) -> bool:
    return bool(subjects) and all(subject.startswith(f"{prefix}.") for subject in subjects or ())


def _loss(name: str, new: Any, info: Mapping[str, Any]) -> str | None:
    state = info.get("state", {})
    held = {"max_msgs": "messages", "max_bytes": "bytes"}
    if name in held and 0 < new < state[held[name]]:
        return f"it holds {state[held[name]]} {held[name]} now, some of which would be lost"
    if name == "max_age" and new and state["messages"]:
        age = (_time(info["ts"]) - _time(state["first_ts"])).total_seconds()
        if nanoseconds(age) > new:
            return f"its oldest message is {age / 86400:.1f} days old, and would be lost"
    return None


def _time(text: str) -> datetime:
    # Nanoseconds and Z, of which Python 3.11 reads no more than six digits.
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value or 0


def _shown(name: str, value: Any) -> str:
    if name in _DURATIONS:
        return f"{(value or 0) / 1e9:.12g} s"
    return ", ".join(value) if isinstance(value, list) else str(_plain(value))
