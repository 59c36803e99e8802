"""What happens when: everything that a seed decides. The same seed makes the same plan."""

import random
from dataclasses import dataclass
from itertools import cycle
from typing import Final, Literal

JOBS_PER_SECOND: Final = 30.0
SECONDS_PER_KILL: Final = 3.0
SECONDS_PER_BROKER_FAILURE: Final = 8.0
ACK_WAIT_SECONDS: Final = 3.0
SECONDS_PER_BURST: Final = 12.0
ELECTIONS: Final = 3.0  # a leader that says nothing is replaced after 4 to 9 s: it comes back, and is none any more
SLOTS: Final = 16  # of each worker: core requests fill them now and then
BURST: Final = 64  # core requests at once, as many as all workers have slots
CANCELS: Final = 16  # of one job at once
HOUR_SECONDS: Final = 3600.0

FAILING: Final = 0.1
FAILURES: Final = ("503", "429", "cut", "stall")
HOPELESS: Final = ("503",) * 50
SILENCE_MAX_SECONDS: Final = 15.0
SLOW: Final = "slow"  # it answers after a silence that outlasts leases
# The contract's code for what no retry mends (section 4).
REFUSALS: Final = {"400": "invalid_request", "413": "too_large"}
STREAMS: Final = ("AIOUT", "AIJOBS", "AIDEAD")

Fault = Literal[
    "worker killed", "worker frozen", "worker cut off", "worker rolled", "all workers rolled",
    "broker killed", "broker frozen", "broker cut off", "quorum away", "stream full", "leader moved",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of it."""

    jobs: int = 2000
    kills: int = 20
    broker_failures: int = 3
    attempts_max: int = 5

    @property
    def seconds(self) -> float:
        """For how long jobs are submitted and faults begin."""
        return max(
            self.jobs / JOBS_PER_SECOND,
            self.kills * SECONDS_PER_KILL,
            self.broker_failures * SECONDS_PER_BROKER_FAILURE,
        )

    @property
    def silence_seconds(self) -> float:
        """How long a slow provider is silent; less in a short run, which does not wait for it."""
        return min(SILENCE_MAX_SECONDS, self.seconds / 2)


@dataclass(frozen=True, slots=True)
class Clock:
    """How far a worker's clock is off, in seconds: at first, and from `step_at` seconds after its start on."""

    first: float = 0.0
    then: float = 0.0
    step_at: float = 0.0

    @property
    def off(self) -> bool:
        """Whether it is ever off."""
        return bool(self.first or self.then)


@dataclass(frozen=True, slots=True)
class Job:
    """One job, and what its requester and the provider do.

    Attributes:
        id: Its id.
        at: When it is submitted, in seconds from the start.
        words: Of its answer.
        pause: Seconds between two of them.
        outcomes: What the provider does at its first calls, one for each; it answers all further ones.
        budget: Its `timeout_seconds`; None for the worker's own.
        cancels: When its requester cancels, in seconds after the acknowledgement; twice the same is both at once.
        resumes: When a reader begins to read it, likewise.
        again: When it is submitted a second time, likewise; None for never.
        copied: It names a `reply_to`.
        kind: `text`, or `image`, whose answer comes at once and whole.
    """

    id: str
    at: float
    words: int
    pause: float
    outcomes: tuple[str, ...] = ()
    budget: float | None = None
    cancels: tuple[float, ...] = ()
    resumes: tuple[float, ...] = ()
    again: float | None = None
    copied: bool = False
    kind: Literal["text", "image"] = "text"


@dataclass(frozen=True, slots=True)
class Burst:
    """Core requests that come at once, and how long each takes."""

    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault.

    Attributes:
        at: When, in seconds from the start; later where the one before has not passed.
        what: Its kind.
        pick: 0 to 1: whom it meets, of those that are there then.
        seconds: For how long.
        stream: Whose leader, or which stream.
        way: Of a link: what does not get through any more.
        cut: A link's connections are cut in the end; else all that was held is delivered.
    """

    at: float
    what: Fault
    pick: float
    seconds: float
    stream: str = ""
    way: Literal["both", "up", "down"] = "both"
    cut: bool = False


@dataclass(frozen=True)
class Plan:
    """All of a run."""

    seed: int
    scale: Scale
    jobs: tuple[Job, ...]
    bursts: tuple[Burst, ...]
    workers: tuple[Blow, ...]
    brokers: tuple[Blow, ...]
    clocks: tuple[Clock, ...]


def planned(seed: int, scale: Scale) -> Plan:
    """Make the plan of a seed."""
    dice = random.Random(seed)  # noqa: S311 - a plan that can be made again
    return Plan(
        seed,
        scale,
        _certain() + tuple(_job(dice, number, scale) for number in range(scale.jobs - len(_certain()))),
        tuple(
            Burst(dice.uniform(0, scale.seconds), dice.uniform(1, 3))
            for _ in range(max(1, int(scale.seconds / SECONDS_PER_BURST)))
        ),
        _worker_blows(dice, scale),
        _broker_blows(dice, scale),
        tuple(_clock(dice) for _ in range(2 * scale.kills + 16)),
    )


def _job(dice: random.Random, number: int, scale: Scale) -> Job:
    words, pause, at, roll = *_length(dice), number * scale.seconds / scale.jobs, dice.random()
    if roll < 0.04:
        return Job(f"j{number}", at, words, pause, outcomes=(SLOW,), copied=True)
    if roll < 0.06:  # it waits for its retry when they come
        return Job(
            f"j{number}",
            at,
            words,
            pause,
            outcomes=("429",) * 9,
            copied=True,
            cancels=(dice.uniform(0.3, 1.5),) * CANCELS,
        )
    image = dice.random() < 0.05
    return Job(
        id=f"j{number}",
        at=at,
        words=words,
        pause=pause,
        outcomes=tuple(outcome for outcome in _outcomes(dice) if not (image and outcome == "stall")),
        budget=dice.uniform(2, 6) if dice.random() < 0.02 else None,
        cancels=_moments(dice) if dice.random() < 0.08 else (),
        resumes=_moments(dice) if dice.random() < 0.12 else (),
        again=dice.expovariate(0.3) if dice.random() < 0.03 else None,
        copied=dice.random() < 0.1,
        kind="image" if image else "text",
    )


def _certain() -> tuple[Job, ...]:
    """What the smallest run has too: each thing that a requester or the provider may do."""
    return (
        Job("cancelled", 0.5, words=20, pause=0.3, cancels=(1.0, 1.0)),
        Job("resumed", 0.5, words=20, pause=0.2, resumes=(0.0, 1.0)),
        Job("retried", 0.5, words=5, pause=0.1, outcomes=("503", "cut"), again=0.0),
        Job("hopeless", 0.5, words=5, pause=0.1, outcomes=HOPELESS, resumes=(0.0,)),
        Job("refused", 0.5, words=5, pause=0.1, outcomes=("400",)),
        Job("copied", 0.5, words=20, pause=0.1, copied=True),
        Job("slow", 0.5, words=5, pause=0.1, outcomes=(SLOW,), copied=True),
        Job("stormed", 0.5, words=5, pause=0.1, outcomes=("429",) * 9, copied=True, cancels=(0.7,) * CANCELS),
        Job("drawn", 0.5, words=1, pause=0.5, outcomes=("cut",), resumes=(0.0,), kind="image"),
    )


def _length(dice: random.Random) -> tuple[int, float]:
    roll = dice.random()
    if roll < 0.8:
        return dice.randint(1, 12), dice.uniform(0, 0.03)
    if roll < 0.95:
        return dice.randint(5, 20), dice.uniform(0.05, 0.1)
    return dice.randint(10, 20), dice.uniform(0.2, 0.4)


def _outcomes(dice: random.Random) -> tuple[str, ...]:
    if dice.random() < 0.005:
        return HOPELESS
    outcomes: list[str] = []
    while dice.random() < FAILING:
        outcomes.append(dice.choice(FAILURES))
    if dice.random() < 0.01:
        outcomes.append(dice.choice(list(REFUSALS)))
    return tuple(outcomes)


def _moments(dice: random.Random) -> tuple[float, ...]:
    """At once, or some time later; for some twice, at the same moment or not."""
    first = 0.0 if dice.random() < 0.2 else dice.expovariate(0.7)
    roll = dice.random()
    return (first, first) if roll < 0.2 else (first, first + dice.expovariate(1)) if roll < 0.3 else (first,)


def _clock(dice: random.Random) -> Clock:
    roll, hour = dice.random(), dice.choice((HOUR_SECONDS, -HOUR_SECONDS))
    if roll < 0.5:
        return Clock()
    return Clock(hour, hour) if roll < 0.75 else Clock(0.0, hour, dice.uniform(3, 20))


def _worker_blows(dice: random.Random, scale: Scale) -> tuple[Blow, ...]:
    counts: dict[Fault, int] = {
        "worker killed": scale.kills,
        "worker frozen": max(1, scale.kills // 4),
        "worker cut off": max(1, scale.kills // 3),
        "worker rolled": max(1, scale.kills // 5),
        "all workers rolled": scale.kills // 20,
    }
    return tuple(
        Blow(
            at=at,
            what=what,
            pick=dice.random(),
            seconds=dice.uniform(0.5, 2.5) * ACK_WAIT_SECONDS,  # most outlast the lease
            way=dice.choice(("both", "up", "down")),
            cut=dice.random() < 0.3,
        )
        for at, what in _when(dice, counts, scale)
    )


def _broker_blows(dice: random.Random, scale: Scale) -> tuple[Blow, ...]:
    failures, others = scale.broker_failures, scale.broker_failures // 3
    counts: dict[Fault, int] = {
        "broker killed": failures - others,
        "quorum away": others,
        "broker frozen": others,
        "broker cut off": others,
        "stream full": failures,
        "leader moved": 2 * failures,
    }
    full = cycle(STREAMS)  # in turn, the records' first: a worker that dies meanwhile has not stored its end
    return tuple(
        Blow(
            at=at,
            what=what,
            pick=dice.random(),
            seconds=dice.uniform(0.5, 4) * (ELECTIONS if what in ("broker frozen", "broker cut off") else 1),
            stream=next(full) if what == "stream full" else dice.choice(STREAMS),
            cut=dice.random() < 0.3,
        )
        for at, what in _when(dice, counts, scale)
    )


def _when(dice: random.Random, counts: dict[Fault, int], scale: Scale) -> list[tuple[float, Fault]]:
    kinds = [what for what, count in counts.items() for _ in range(count)]
    dice.shuffle(kinds)
    times = sorted(dice.uniform(0.05, 0.95) * scale.seconds for _ in kinds)
    return list(zip(times, kinds, strict=True))
