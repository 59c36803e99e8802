"""What a run prints: a line of figures, and each violation with all that is known of its job."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from benchmarks.chaos.evidence import Stored
from benchmarks.chaos.judge import Case, Violation
from benchmarks.chaos.plan import Plan

SHOWN: Final = 5
NEAR_SECONDS: Final = 5.0

Story = list[tuple[float, float, str]]


def report(plan: Plan, found: list[Violation], counted: Counter[str], seconds: float) -> None:
    """Print the figures."""
    told = ", ".join(f"{name}: {count}" for name, count in sorted((+counted).items()))
    print(f"seed {plan.seed}: {len(found)} violations, {len(plan.jobs)} jobs in {seconds:.0f} s; {told}")


def show(found: list[Violation], known: dict[str, Case], story: Story) -> None:
    """Print each violation, and the whole history of the first jobs of each rule."""
    shown, told = Counter[str](), set[str]()
    for violation in found:
        print(f"VIOLATION {violation.id}: {violation.rule}. {violation.detail}")
        shown[violation.rule] += 1
        if shown[violation.rule] <= SHOWN and violation.id in known and violation.id not in told:
            told.add(violation.id)
            print(*(f"    {line}" for line in _history(known[violation.id], story)), sep="\n")
    for rule, count in shown.items():
        print(f"  {count} x {rule}")


def _history(case: Case, story: Story) -> Iterator[str]:
    yield str(case.job)
    yield f"provider: {case.calls}; letters: {[letter.headers for letter in case.letters]}"
    lines = [(case.sent, "sent"), (case.acked, "acknowledged")]
    lines += [(stored.time, _line(stored)) for stored in case.record]
    for cancel in case.cancels:
        lines += [(cancel.sent, "cancel asked"), (cancel.replied, f"cancel told {cancel.answer}")]
    first, last = case.sent, max(time for time, _ in lines)
    for begin, end, what in story:
        if begin <= last and end >= first - NEAR_SECONDS:
            lines += [(begin, f"-- {what}"), (end, f"-- past: {what}")]
    yield from (f"{time:.3f} {line}" for time, line in sorted(lines))
    for reading in case.readings:
        yield f"read up to {reading.point}, asked {reading.asked} times, ended {reading.ended}, wrong {reading.wrong}"


def _line(stored: Stored) -> str:
    event = stored.event
    return f"({event['attempt']}, {event['seq']}) {event['type']} {str(event.get('data'))[:300]}"
