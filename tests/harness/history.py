"""What a token was good for at any time, and which responses that allows (linearizability).

Each change of a token's access took place at some moment between the begin and the return of a call. A request may get
any response that was right at some moment between its first byte and the end of its response. All times are readings of
CLOCK_MONOTONIC, which all processes share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.support.load import Sample

NEVER = float("inf")
REFUSED = ""  # what a token without access is good for
# A token that was refused ten times is refused without a look-up for a second, also if it has access again.
THROTTLE_SECONDS = 5.0
THROTTLED = "too_many_refusals"
OUTAGE = "store_unavailable"


@dataclass(frozen=True)
class Change:
    """A change of what a token is good for: an answer of the upstream, or `REFUSED`."""

    kind: str
    began: float
    returned: float  # `NEVER` if the call failed, so that nobody knows
    answer: str


@dataclass
class Value:
    """One value of a token. The first of its changes issued it."""

    token: str = field(repr=False)
    path: str
    changes: list[Change] = field(default_factory=list)

    @property
    def answer(self) -> str:
        return self.changes[-1].answer

    def answers(self, start: float, end: float) -> set[str]:
        """Return all answers that are right for a request from `start` to `end`."""
        before = [number for number, change in enumerate(self.changes) if change.returned <= start]
        possible = self.changes[before[-1] if before else 0 :]
        return {change.answer for change in possible if change.began < end or change is possible[0]}

    def last_change(self, at: float) -> Change | None:
        """Return the last change that had returned by then."""
        return next((change for change in reversed(self.changes) if change.returned <= at), None)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request. `answer` is that of the upstream, or `REFUSED` if Strake answered with `error`."""

    value: Value
    pid: int
    began: float
    ended: float
    status: int
    error: str
    answer: str

    @classmethod
    def of(cls, value: Value, pid: int, sample: Sample) -> Attempt:
        answer = sample.headers.get("x-answer", REFUSED)
        return cls(value, pid, sample.began, sample.ended, sample.status, sample.error, answer)

    @property
    def wrongly_accepted(self) -> bool:
        """Whether the upstream got this request although no access gave it, or with a key of the past."""
        return self.answer != REFUSED and self.answer not in self.value.answers(self.began, self.ended)

    @property
    def wrongly_refused(self) -> bool:
        """Whether this request failed although it had access all the time. An outage of the store is no refusal."""
        start = self.began - THROTTLE_SECONDS if self.error == THROTTLED else self.began
        answers = self.value.answers(start, self.ended)
        return self.answer == REFUSED and self.error != OUTAGE and len(answers) == 1 and REFUSED not in answers

    @property
    def since_change(self) -> float:
        """The seconds between the return of the last change and the first byte of this request."""
        change = self.value.last_change(self.began)
        return NEVER if change is None else self.began - change.returned

    @property
    def decides(self) -> bool:
        """Whether the token was looked up and refused, because of a change that had returned before."""
        return self.status in {401, 403, 410} and self.value.answers(self.began, self.ended) == {REFUSED}


@dataclass
class Report:
    """The outcome of a run."""

    attempts: list[Attempt] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)  # of changes
    waited: int = 0  # requests for a stopped process, sent after access had ended
    seconds: float = 0.0

    @property
    def wrongly_accepted(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.wrongly_accepted]

    @property
    def wrongly_refused(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.wrongly_refused]

    @property
    def decisive(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.decides]

    @property
    def is_right(self) -> bool:
        return not self.wrongly_accepted and not self.wrongly_refused

    def __str__(self) -> str:
        gaps = sorted(attempt.since_change for attempt in self.decisive)
        soonest = f"{gaps[0] * 1e6:.0f} µs" if gaps else "none"
        lines = (
            f"{len(self.attempts):,} requests in {self.seconds:.0f} s ({len(self.attempts) / self.seconds:.0f}/s)",
            f"by process: {_listed(Counter(attempt.pid for attempt in self.attempts).values())}",
            f"responses: {_counted(Counter(attempt.error or str(attempt.status) for attempt in self.attempts))}",
            f"changes: {_counted(self.changes)}",
            *([f"failed changes: {len(self.failures)}, such as {self.failures[0]}"] if self.failures else []),
            f"refused by a look-up after a change: {len(gaps):,}, soonest after {soonest}, "
            f"within 1 ms {sum(gap < 0.001 for gap in gaps):,}, within 10 ms {sum(gap < 0.01 for gap in gaps):,}",
            *([f"sent to a stopped process after a change: {self.waited:,}"] if self.waited else []),
            f"wrongly accepted: {len(self.wrongly_accepted)}{_kinds(self.wrongly_accepted)}",
            f"wrongly refused: {len(self.wrongly_refused)}{_kinds(self.wrongly_refused)}",
        )
        return "\n  ".join(lines)


def _kinds(attempts: list[Attempt]) -> str:
    """Return what was wrong with them, for the reader of a failure."""
    kinds = Counter(
        f"{attempt.error or attempt.status} after {change.kind if change else 'nothing'}"
        for attempt in attempts
        for change in [attempt.value.last_change(attempt.began)]
    )
    return f" ({_counted(kinds)})" if kinds else ""


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items()))


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)
