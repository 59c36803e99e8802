"""Holds every job against the contract, by what is known from outside. No I/O."""

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import orjson

from benchmarks.chaos.evidence import (
    NOTHING,
    SENTINEL,
    Cancel,
    Event,
    Evidence,
    Letter,
    Reading,
    Stored,
    attempts,
    follows,
    is_end,
    place,
)
from benchmarks.chaos.plan import REFUSALS, SLOW, Job, Plan
from benchmarks.chaos.provider import PROMPT, picture, words

SLACK_SECONDS: Final = 0.25  # between the broker's storing and a requester's hearing of it
BUDGET_SECONDS: Final = 600.0
LEFT_AGAIN: Final = ("retrying", "given_back")
GOOD: Final = ("ok", SLOW)
# Of one event at its `reply_to`: its writer's, and its of whoever went on for that one.
COPIES_MAX: Final = 2
HELD_MAX: Final = 1  # status of a job that was on its way when a fault began
# A leader that is cut off, or wakes up, answers for some seconds with what it had, and no reader can tell.
DEPOSING: Final = ("broker cut off", "broker frozen")
LEADER_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Violation:
    """One sentence of the contract that did not hold for one job."""

    id: str
    rule: str
    detail: str = ""


@dataclass
class Case:
    """All that is known of one job."""

    job: Job
    sent: float
    acked: float
    record: list[Stored]
    letters: list[Letter]
    calls: list[str]
    cancels: list[Cancel] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    copies: list[Event] = field(default_factory=list)
    calm: bool = False
    attempts_max: int = 5
    twice: bool = False
    replay: Reading | None = None

    @property
    def end(self) -> Stored | None:
        """The first final event of the record."""
        return next((stored for stored in self.record if is_end(stored.event)), None)

    @property
    def code(self) -> str:
        """The end's code; empty where it is no error."""
        end = self.end
        return str(end.event["data"]["code"]) if end is not None and end.event["type"] == "error" else ""

    @property
    def failed(self) -> list[bool]:
        """For each attempt that began, whether it counts: not if given back, cancelled or ended well."""
        begun = [events[-1] for events in attempts(self.record) if events[0]["data"] == "started"]
        return [
            last["data"] != "given_back"
            and last["type"] != "done"
            and not (last["type"] == "error" and last["data"]["code"] == "cancelled")
            for last in begun
        ]


def cases(plan: Plan, evidence: Evidence) -> Iterator[Case]:
    """Gather what is known, job by job; only those whose acknowledgement came."""
    found = {
        job.id: Case(
            job,
            evidence.sent[job.id],
            evidence.acked[job.id],
            evidence.records.get(job.id, []),
            evidence.letters.get(job.id, []),
            evidence.calls.get(job.id, []),
            copies=evidence.copies[job.id].events,
            calm=job.id in evidence.calm,
            twice=job.again is not None or job.id in evidence.twice,
            attempts_max=plan.scale.attempts_max,
        )
        for job in plan.jobs
        if job.id in evidence.acked
    }
    for cancel in evidence.cancels:
        cancel.by_old_leader = _deposed(evidence, cancel.sent, cancel.replied)
        found[cancel.id].cancels.append(cancel)
    for reading in evidence.readings:
        reading.by_old_leader = bool(reading.refused) and _deposed(evidence, reading.refused, reading.refused)
        found[reading.id].readings.append(reading)
    for reading in evidence.replays:
        found[reading.id].replay = reading
    yield from found.values()


def _deposed(evidence: Evidence, first: float, last: float) -> bool:
    """Whether a leader may not have known then that it was none any more."""
    return any(
        begin <= last and first <= end + LEADER_SECONDS
        for begin, end, what in evidence.story
        if what.startswith(DEPOSING)
    )


def violations(case: Case) -> Iterator[Violation]:
    """Yield all that is wrong with a job."""
    for rule, details in (
        ("the record is not in order", _order(case)),
        ("there is not exactly one end", _ends(case)),
        ("the answer is not the provider's", _answer(case)),
        ("nothing explains the end", _explained(case)),
        ("the provider was asked without an attempt on record", _calls(case)),
        ("dead letters and the end do not agree", _letters(case)),
        ("a canceller was told something else", _cancels(case)),
        ("a reader got what is not on record", _readers(case)),
        ("a reply_to got what it must not", _copies(case)),
    ):
        for detail in details:
            yield Violation(case.job.id, rule, detail)


def _order(case: Case) -> Iterator[str]:
    before, status = NOTHING, ""
    for number, stored in enumerate(case.record):
        event = stored.event
        if event.get("id") != case.job.id:
            yield f"number {number} is of {event.get('id')!r}"
        if not (follows(event, before) if number else place(event) == (1, 0)):
            yield f"after {before} comes {stored.point}"
        if event["seq"] == 0 and event["data"] != "started" and event["type"] != "error":
            yield f"attempt {event['attempt']} does not begin with started"
        if status in LEFT_AGAIN and event["seq"] > 0 and event["type"] != "error":
            yield f"attempt {event['attempt']} goes on after {status}"
        before, status = stored.point, str(event["data"]) if event["type"] == "status" else ""


def _ends(case: Case) -> Iterator[str]:
    ends = [stored.point for stored in case.record if is_end(stored.event)]
    if len(ends) != 1:
        yield f"{len(ends)} ends, at {ends}"
    elif not is_end(case.record[-1].event):
        yield f"after the end comes {case.record[-1].point}"


def _answer(case: Case) -> Iterator[str]:
    end = case.end
    if end is None or end.event["type"] != "done":
        return
    last = [stored.event for stored in case.record if stored.event["attempt"] == end.event["attempt"]]
    if _said(last) not in {_answered(case.job, call) for call, outcome in enumerate(case.calls, 1) if outcome in GOOD}:
        yield f"it says {_said(last)[:1000]!r}"
    if end.event["data"]["last_seq"] != end.event["seq"]:
        yield f"last_seq is {end.event['data']['last_seq']}, its own is {end.event['seq']}"
    waited, most = end.event["data"]["timing"]["queued_ms"] / 1000, end.time - case.sent
    if not 0 <= waited <= most + SLACK_SECONDS:
        yield f"it says {waited} s of waiting, of {most} s in all"


def _said(events: list[Event]) -> bytes:
    images = [base64.b64decode(event["data"]["b64"]) for event in events if event["type"] == "image"]
    return b"".join(images) or "".join(event["data"] for event in events if event["type"] == "response").encode()


def _answered(job: Job, call: int) -> bytes:
    return picture(job, call) if job.kind == "image" else "".join(words(job, call)).encode()


def _explained(case: Case) -> Iterator[str]:
    """An end is done, cancelled by somebody, refused by the provider, late, or the last of the attempts."""
    failures, code, end = sum(case.failed), case.code, case.end
    if sum(case.failed[:-1]) >= case.attempts_max:
        yield f"an attempt began after {sum(case.failed[:-1])} that failed"
    if end is None or not code:
        return
    passed = end.time - case.sent >= (case.job.budget or BUDGET_SECONDS) - SLACK_SECONDS
    hurried = case.job.budget is not None and any(outcome not in GOOD for outcome in case.calls)
    explained = {
        "cancelled": any(cancel.answer not in ("false", "nobody") for cancel in case.cancels),
        "deadline_exceeded": passed or failures >= case.attempts_max,
    }.get(code, failures >= case.attempts_max or hurried or code in {REFUSALS.get(call) for call in case.calls})
    if not explained:
        yield f"{code} after {failures} failures, {end.time - case.sent:.1f} s and calls {case.calls}"


def _calls(case: Case) -> Iterator[str]:
    begun = sum(stored.event["data"] == "started" for stored in case.record)
    # A connection that is used again and closed before any answer is no failed call: it is asked once more at once.
    again = sum(call == "cut" for call in case.calls[:-1])
    if len(case.calls) > begun + again:
        yield f"{len(case.calls)} calls, {begun} attempts"


def _letters(case: Case) -> Iterator[str]:
    wanted = [case.code] if case.code not in ("", "cancelled") else []
    found = [letter.headers.get("Ai-Dead-Code", "") for letter in case.letters]
    if found != wanted:
        yield f"letters {found}, and the end {case.code or 'is no error'!r}"
    for letter in case.letters:
        if letter.kind != case.job.kind or PROMPT + case.job.id != orjson.loads(letter.body).get("prompt"):
            yield f"the letter holds {letter.kind} {letter.body[:200]!r}"


def _cancels(case: Case) -> Iterator[str]:
    end = case.end
    for cancel in case.cancels:
        if cancel.answer == "true" and case.code != "cancelled":
            yield f"true, and the end is {case.code or 'no error'}"
        elif cancel.answer == "true" and end is not None and end.time > cancel.replied + SLACK_SECONDS:
            yield f"true {end.time - cancel.replied:.2f} s before the end was stored"
        elif cancel.answer == "false" and not cancel.by_old_leader and _ends_behind(end, cancel):
            yield "false, and it had not ended"
        elif cancel.answer in (None, "nobody") and cancel.calm:
            yield "nothing, though no fault was near"


def _ends_behind(end: Stored | None, cancel: Cancel) -> bool:
    return end is None or end.time > cancel.replied + SLACK_SECONDS


def _readers(case: Case) -> Iterator[str]:
    record = {stored.point: stored.event for stored in case.record}
    for what, events in [("a copy", case.copies)] + [("a resume", reading.events) for reading in case.readings]:
        for event in events:
            if place(event) != (0, 0) and record.get(place(event)) != event:
                yield f"{what} brought {event}"
    for reading in [*case.readings, *([case.replay] if case.replay else [])]:
        if reading.by_old_leader:
            continue
        yield from reading.wrong
        if not (reading.ended or reading.wrong):
            yield f"a resume did not end, {len(reading.events)} events, asked {reading.asked} times"
    if case.replay and case.replay.ended and case.replay.events != [stored.event for stored in case.record]:
        yield "a resume after it all is not the record"


def _copies(case: Case) -> Iterator[str]:
    """Behind its sentinel comes nothing but what has come before, and what a fault has held on its way."""
    most = COPIES_MAX + case.twice
    for what, count in Counter(_named(event) for event in case.copies if event["type"] != "status").items():
        if count > most:
            yield f"{what} came {count} times"
    if SENTINEL not in case.copies:
        if case.job.copied and case.calm:
            yield "no sentinel came, though no fault was near"
        return
    first = case.copies.index(SENTINEL)
    before, behind = case.copies[:first], [event for event in case.copies[first:] if event != SENTINEL]
    if case.calm and not (before and is_end(before[-1])):
        yield f"a sentinel came behind {_named(before[-1]) if before else 'nothing'}"
    outside = sum(place(event) == (0, 0) for event in behind)
    if outside > (0 if case.calm else HELD_MAX):
        yield f"{outside} times status came behind the sentinel"
    if case.calm:
        yield from (f"{_named(event)} came behind the sentinel, first" for event in behind if event not in before)


def _named(event: Event) -> str:
    return "the sentinel" if event == SENTINEL else f"{place(event)} {event['type']}"


def figures(case: Case) -> Counter[str]:
    """Count what became of a job."""
    found = Counter({(case.code and "error") or ("done" if case.end else "no end"): 1})
    if case.code == "cancelled":
        found = Counter({"cancelled": 1})
    found["letters"] = len(case.letters)
    found["attempts"] = sum(1 for _ in attempts(case.record))
    found["events"] = len(case.record)
    found["calls"] = len(case.calls)
    for events in list(attempts(case.record))[:-1]:
        last = events[-1]["data"]
        found[f"attempts {last if last in LEFT_AGAIN else 'died'}"] += 1
    for cancel in case.cancels:
        found[f"cancels told {cancel.answer}"] += 1
        found["cancels later than a second, no fault near"] += cancel.calm and cancel.replied - cancel.sent > 1
    found["readings"] = len(case.readings)
    found["readings asked again"] = sum(reading.asked > 1 for reading in case.readings)
    return found
