"""The judge of `make chaos` finds each kind of fault: shown to it as what the streams and the requesters would hold."""

from dataclasses import replace
from typing import Any

from benchmarks.chaos.evidence import SENTINEL, Cancel, Letter, Reading, Stored
from benchmarks.chaos.judge import Case, violations
from benchmarks.chaos.plan import Job

JOB = Job("j1", 0.0, words=2, pause=0.0)
SENT, END = 100.0, 101.0
ORDER, ENDS, ANSWER = (
    "the record is not in order", "there is not exactly one end", "the answer is not the provider's",
)  # fmt: skip
EXPLAINED, CALLS, LETTERS = (
    "nothing explains the end", "the provider was asked without an attempt on record",
    "dead letters and the end do not agree",
)  # fmt: skip
CANCELS, READERS, COPIES = (
    "a canceller was told something else", "a reader got what is not on record", "a reply_to got what it must not",
)  # fmt: skip


def event(kind: str, data: Any, attempt: int, seq: int) -> dict[str, Any]:
    return {"type": kind, "data": data, "id": "j1", "attempt": attempt, "seq": seq}


def done(attempt: int, seq: int) -> dict[str, Any]:
    return event("done", {"last_seq": seq, "timing": {"queued_ms": 10}}, attempt, seq)


def failed(code: str, attempt: int, seq: int) -> dict[str, Any]:
    return event("error", {"code": code}, attempt, seq)


def answered(attempt: int = 1, *, call: int = 1) -> list[dict[str, Any]]:
    said = [event("response", f"j1.{call}.{number};", attempt, number + 1) for number in range(2)]
    return [event("status", "started", attempt, 0), *said, done(attempt, 3)]


def left(status: str, attempt: int) -> list[dict[str, Any]]:
    return [event("status", "started", attempt, 0), event("status", status, attempt, 1)]


def case(*events: dict[str, Any], calls: list[str] | None = None, **known: Any) -> Case:
    record = [Stored(each, END - 0.1 * (len(events) - 1 - number)) for number, each in enumerate(events)]
    letters = [Letter("text", {"Ai-Dead-Code": code}, b'{"prompt":"chaos j1"}') for code in known.pop("letters", ())]
    return Case(known.pop("job", JOB), SENT, SENT, record, letters, ["ok"] if calls is None else calls, **known)


def found(shown: Case) -> set[str]:
    return {violation.rule for violation in violations(shown)}


def test_a_whole_answer_is_well() -> None:
    assert not found(case(*answered()))


def test_an_answer_after_attempts_that_failed_died_and_were_given_back_is_well() -> None:
    died = [event("status", "started", 3, 0)]
    calls = ["503", "ok", "ok", "ok"]
    assert not found(case(*left("retrying", 1), *left("given_back", 2), *died, *answered(4, call=3), calls=calls))


def test_a_job_without_an_end_is_lost() -> None:
    assert found(case(*answered()[:-1])) == {ENDS}
    assert found(case(calls=[])) == {ENDS}


def test_a_second_end_is_found() -> None:
    assert found(case(*answered(), *answered(2, call=2), calls=["ok", "ok"])) >= {ENDS}


def test_an_event_after_the_end_is_found() -> None:
    assert found(case(*answered(), event("status", "working", 1, 4))) == {ENDS}


def test_a_gap_and_a_lower_attempt_are_found() -> None:
    started, first, _, end = answered()
    assert ORDER in found(case(started, first, end))
    assert ORDER in found(case(*left("retrying", 1), started | {"attempt": 3}, done(3, 1), calls=["503", "ok"]))
    assert ORDER in found(case(*left("retrying", 1), *answered(2), first, calls=["503", "ok"]))


def test_an_attempt_that_was_left_does_not_go_on() -> None:
    assert found(case(*left("given_back", 1), event("response", "j1.1.0;", 1, 2), done(1, 3))) >= {ORDER}


def test_an_answer_of_two_calls_is_a_splice() -> None:
    events = answered()
    events[2] = events[2] | {"data": "j1.2.1;"}
    assert found(case(*events, calls=["ok", "ok"])) >= {ANSWER}


def test_a_retryable_end_needs_all_attempts() -> None:
    ends = [*left("retrying", 1), event("status", "started", 2, 0), failed("provider_unavailable", 2, 1)]
    assert found(case(*ends, calls=["503"] * 2, letters=["provider_unavailable"])) == {EXPLAINED}
    ends = [each for attempt in (1, 2, 3, 4) for each in left("retrying", attempt)]
    ends += [event("status", "started", 5, 0), failed("provider_unavailable", 5, 1)]
    assert not found(case(*ends, calls=["503"] * 5, letters=["provider_unavailable"]))


def test_attempts_that_were_given_back_bury_no_job() -> None:
    ends = [each for attempt in range(1, 6) for each in left("given_back", attempt)]
    assert found(case(*ends, failed("internal", 6, 0), calls=[], letters=["internal"])) == {EXPLAINED}


def test_more_attempts_than_may_fail_are_found() -> None:
    failures = [each for attempt in range(1, 7) for each in left("retrying", attempt)]
    assert found(case(*failures, *answered(7), calls=["ok"] + ["503"] * 6)) == {EXPLAINED}


def test_a_refusal_is_the_providers_or_nothing_explains_it() -> None:
    ends = [event("status", "started", 1, 0), failed("invalid_request", 1, 1)]
    assert not found(case(*ends, calls=["400"], letters=["invalid_request"]))
    assert found(case(*ends, calls=["ok"], letters=["invalid_request"])) == {EXPLAINED}


def test_a_deadline_before_its_time_is_a_wrong_clock() -> None:
    late = failed("deadline_exceeded", 1, 0)
    assert found(case(late, calls=[], letters=["deadline_exceeded"])) == {EXPLAINED}
    hurried = Job("j1", 0.0, words=2, pause=0.0, budget=1.0)
    assert not found(case(late, calls=[], letters=["deadline_exceeded"], job=hurried))


def test_a_call_without_an_attempt_is_found() -> None:
    assert found(case(*answered(), calls=["ok", "ok"])) == {CALLS}


def test_a_letter_that_is_missing_or_too_much_or_of_another_code_is_found() -> None:
    ends = [event("status", "started", 1, 0), failed("invalid_request", 1, 1)]
    for letters in ([], ["invalid_request"] * 2, ["internal"]):
        assert found(case(*ends, calls=["400"], letters=letters)) == {LETTERS}
    assert found(case(*answered(), letters=["internal"])) == {LETTERS}


def test_a_cancel_was_told_the_truth_or_it_is_found() -> None:
    def told(answer: str | None, replied: float = END) -> list[Cancel]:
        return [Cancel("j1", SENT, answer, replied, calm=True)]

    ended = failed("cancelled", 1, 0)
    assert not found(case(ended, calls=[], cancels=told("true")))
    assert not found(case(ended, calls=[], cancels=told("error")))
    assert not found(case(*answered(), cancels=told("false")))
    assert found(case(*answered(), cancels=told("true"))) == {CANCELS}
    assert found(case(*answered(), cancels=told("false", SENT + 0.1))) == {CANCELS}
    assert found(case(*answered(), cancels=told(None))) == {CANCELS}
    assert found(case(ended, calls=[], cancels=told("true", SENT))) == {CANCELS}
    assert found(case(ended, calls=[], cancels=told("false"))) == {EXPLAINED}
    assert found(case(ended, calls=[])) == {EXPLAINED}


def test_a_reader_got_the_record_or_it_is_found() -> None:
    events = answered()
    assert not found(case(*events, readings=[Reading("j1", events, 1, ended=True)], copies=events[:2]))
    stale = event("response", "j1.9.0;", 1, 1)
    assert found(case(*events, readings=[Reading("j1", [events[0], stale], 2, ended=True)])) == {READERS}
    assert found(case(*events, copies=[stale])) == {READERS}
    assert found(case(*events, readings=[Reading("j1", events[:2], 3)])) == {READERS}
    assert found(case(*events, replay=Reading("j1", events[1:], 1, ended=True))) == {READERS}


def test_a_reply_to_got_the_record_and_one_sentinel_or_it_is_found() -> None:
    asked, events, working = replace(JOB, copied=True), answered(), event("status", "working", 0, 0)
    whole = [*events[:2], working, *events[2:], SENTINEL]

    def copied(*copies: dict[str, Any], calm: bool = True) -> set[str]:
        return found(case(*events, copies=list(copies), job=asked, calm=calm))

    assert not copied(*whole)
    assert not copied(*whole, events[-1], SENTINEL), "whoever went on for another says it once more"
    assert copied(*events) == {COPIES}
    assert not copied(*events, calm=False), "a fault may cost it"
    assert copied(*whole, *[events[-1], SENTINEL] * 2) == {COPIES}
    assert copied(*events[:2], SENTINEL, calm=True) == {COPIES}
    assert copied(events[0], *events[2:], SENTINEL, events[1]) == {COPIES}


def test_a_status_behind_the_sentinel_is_one_that_a_fault_has_held_or_it_is_found() -> None:
    asked, events, working = replace(JOB, copied=True), answered(), event("status", "working", 0, 0)

    def behind(count: int, *, calm: bool) -> set[str]:
        return found(case(*events, copies=[*events, SENTINEL, *[working] * count], job=asked, calm=calm))

    assert behind(1, calm=True) == {COPIES}
    assert not behind(1, calm=False)
    assert behind(3, calm=False) == {COPIES}


def test_with_one_attempt_a_failure_is_the_end() -> None:
    ends = [event("status", "started", 1, 0), failed("provider_unavailable", 1, 1)]
    assert not found(case(*ends, calls=["503"], letters=["provider_unavailable"], attempts_max=1))
    assert found(case(*left("retrying", 1), *answered(2, call=2), calls=["503", "ok"], attempts_max=1)) == {EXPLAINED}
