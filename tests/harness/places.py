"""The endpoints of the revocation harness, and the process that changes the access to them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from tests.harness.access import Access
from tests.harness.history import NEVER, REFUSED, Attempt, Change, Report, Value
from tests.harness.processes import Process
from tests.support.load import Sample
from tests.support.running import ROOT, Strake

# The calls that end or change the access of a token, and the call that gives it back, if any is needed.
KINDS = {
    "revoke": "issue",
    "revoke_parent": "issue",
    "rotate": "",
    "expire": "issue",
    "issue_for": "issue",  # a token that runs out by itself
    "pause": "resume",
    "suspend": "readmit",
    "narrow_paths": "widen_paths",
    "narrow_networks": "widen_networks",
    "replace_key": "",
    "redirect": "",
    "delete": "connect",
    "erase": "connect",
}
_LEAVE_ACCESS = frozenset({"replace_key", "redirect", "resume", "readmit", "widen_paths", "widen_networks"})
_ISSUE = frozenset({"connect", "issue", "issue_for"})  # these leave the token as it is
RUN_OUT_SECONDS = 1.0
CLOCKS_SECONDS = 0.05  # the clock of expiries may differ by that from the one of requests
LOCK_MILLISECONDS = 2000


class Place:
    """An endpoint. `values` are those of its tokens, of which the last may be live."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.values: list[Value] = []

    @property
    def value(self) -> Value:
        return self.values[-1]


class Changer:
    """The process of tests/harness/changes.py. Records its changes, and the requests that it sends."""

    def __init__(self, process: asyncio.subprocess.Process, report: Report) -> None:
        self._process = process
        self._lock = asyncio.Lock()
        self._report = report

    async def call(self, place: Place, call: str, *, probed: bool = False) -> bool:
        """Change the access of a place. Returns False if the call failed, so that nobody knows about its token."""
        reply = await self._ask({"call": call, "access": asdict(place.access), "probed": probed})
        place.access = access = Access(**reply["access"])
        returned = NEVER if reply["error"] else reply["returned"]
        if place.values:
            value = place.value
            if call not in _ISSUE:
                answer = access.answer if call in _LEAVE_ACCESS else REFUSED
                value.changes.append(Change(call, reply["began"], returned, answer))
            for sample in reply["samples"]:
                pid = sample.pop("pid")
                self._report.attempts.append(Attempt.of(value, pid, Sample(**sample)))
        if reply["error"]:
            self._report.failures.append(f"{call}: {reply['error']}")
            return False
        self._report.changes[call] += 1
        if not place.values or place.value.token != access.token:
            issued = Value(access.token, access.path, [Change(call, reply["began"], returned, access.answer)])
            if access.runs_out:
                times = access.runs_out - CLOCKS_SECONDS, access.runs_out + CLOCKS_SECONDS
                issued.changes.append(Change("run_out", *times, REFUSED))
            place.values.append(issued)
        return True

    async def cycle(self, place: Place, kind: str, *, probed: bool = True) -> None:
        """End or change the access of a place in one way, and give it back."""
        if kind == "issue_for":
            place.access.seconds = RUN_OUT_SECONDS
            done = await self.call(place, "revoke") and await self.call(place, kind)
            if done:
                end = place.access.runs_out + CLOCKS_SECONDS
                await asyncio.sleep(max(0.0, end - asyncio.get_running_loop().time()))
        else:
            done = await self.call(place, kind, probed=probed)
        await self.give_back(place, kind if done else "delete", probed=probed and kind == "issue_for")

    async def give_back(self, place: Place, kind: str, *, probed: bool = False) -> None:
        if back := KINDS[kind]:
            while not await self.call(place, back, probed=probed):
                pass  # it has waited for a lock

    async def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._lock:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            line = await self._process.stdout.readline()
        reply: dict[str, Any] = json.loads(line)
        return reply


@asynccontextmanager
async def changing(strake: Strake, processes: Sequence[Process], report: Report) -> AsyncIterator[Changer]:
    """Start a changer that probes these processes."""
    known = json.dumps([(process.pid, process.address[1], process.siblings) for process in processes])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.harness.changes", known),
        cwd=ROOT,
        # A stopped process may hold locks.
        env={**strake.environment, "PGOPTIONS": f"-c lock_timeout={LOCK_MILLISECONDS}"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1024 * 1024,
    )
    try:
        yield Changer(process, report)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


async def connect_places(changer: Changer, upstream: str, count: int, *, name: str) -> list[Place]:
    """Connect endpoints of different people. `name` is for their addresses: a run may leave people suspended."""
    places = [Place(Access(upstream, f"{name}-{number}@example.org")) for number in range(count)]
    for place in places:
        if not await changer.call(place, "connect"):
            raise RuntimeError("An endpoint could not be connected.")
    return places
