"""What does each fault cost? `python -m tests.harness.faults`, as root, measures it and prints a table (Markdown).

Two hosts run Strake behind HAProxy, with PostgreSQL (scram, TLS, a synchronous standby) and Redis, each on a machine of
its own: a network namespace. 40 requests a second, 30 event streams of six seconds and two pages a second go through
HAProxy. A fault begins after two seconds and ends after its seconds. Then nothing may fail for five seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.harness import faults_of_stores, faults_upgrade
from tests.harness.site import Site, site
from tests.harness.traffic import Traffic, traffic
from tests.support import machines
from tests.support.running import ROOT

QUIET_SECONDS = 5.0
RECOVERY_SECONDS = 120.0
MAX_STANDSTILL_SECONDS = 1.0
COLUMNS = "fault | failed requests | for | broken streams | failed pages | lost records | lines in the logs"


class Fault(NamedTuple):
    """`begin` and `end` get the site. The fault lasts `seconds`, and what `begin` takes."""

    name: str
    begin: Callable[[Site], object]
    end: Callable[[Site], object] = lambda site: None
    seconds: float = 10.0
    is_last: bool = False  # it changes the site for good, so it gets one of its own


def nothing(site: Site) -> None:
    """No fault."""


def kill_worker(site: Site) -> None:
    os.kill(site.hosts[0].workers[0], signal.SIGKILL)


def kill_web_half(site: Site) -> None:
    os.kill(site.hosts[0].half("web"), signal.SIGKILL)


def kill_arbiter(site: Site) -> None:
    """The proxy half's master process. The service manager starts Strake again, here `revive`."""
    os.kill(site.hosts[0].half("proxy"), signal.SIGKILL)


def revive(site: Site) -> None:
    site.hosts[0].stop()
    site.hosts[0].start()


def unplug_host(site: Site) -> None:
    site.hosts[0].machine.unplug()


def plug_host(site: Site) -> None:
    site.hosts[0].machine.plug()


_limits: dict[int, tuple[int, int]] = {}


def exhaust_descriptors(site: Site) -> None:
    """No process of one host may open another file: its limit is what it has open now."""
    for pid in site.hosts[0].workers:
        _limits[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (30, _limits[pid][1]))


def restore_descriptors(site: Site) -> None:
    for pid, limits in _limits.items():
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def clock(seconds: int) -> Callable[[Site], object]:
    def jump(site: Site) -> None:
        site.hosts[0].clock.move(seconds)

    return jump


def rolling_restart(site: Site) -> None:
    for host in site.hosts:
        host.stop()
        host.start()
        host.wait_until_ready()


FAULTS = [
    Fault("none", nothing),
    Fault("a worker of the proxy half is killed", kill_worker, seconds=3),
    Fault("the web half is killed", kill_web_half, seconds=3),
    Fault("the proxy half's master process is killed, and started again", kill_arbiter, revive, seconds=1),
    Fault("a host is unreachable for 10 s", unplug_host, plug_host),
    Fault("a host has no file descriptors for 10 s", exhaust_descriptors, restore_descriptors),
    Fault("the clock of a host jumps 31 days ahead, and back", clock(31 * 86400), clock(0)),
    Fault("the clock of a host jumps a day back, and ahead", clock(-86400), clock(0)),
    *(Fault(*fault) for fault in faults_of_stores.FAULTS),
    Fault("rolling restart", rolling_restart, seconds=0),
]


async def measure(site: Site, fault: Fault) -> tuple[Traffic, int, int]:
    """Let a fault happen. Returns the traffic, the number of lost records, and the number of lines in the logs."""
    site.provider.exchanges.clear()
    records, lines = await asyncio.to_thread(site.records), site.log().count("\n")
    async with traffic(site) as result:
        await asyncio.sleep(2)
        await asyncio.to_thread(fault.begin, site)
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(fault.end, site)
        ended = time.monotonic()
        while time.monotonic() - max(ended, result.last_failure()) < QUIET_SECONDS:
            if time.monotonic() - ended > RECOVERY_SECONDS:
                sys.stderr.write(f"{fault.name}: no recovery\n")
                break
            await asyncio.sleep(0.2)
    forwarded = len(site.provider.exchanges)
    written = await asyncio.to_thread(_written, site, records, forwarded)
    return result, max(0, forwarded - written), site.log().count("\n") - lines


def _written(site: Site, before: int, expected: int) -> int:
    """The number of records since `before`, as soon as there are as many as expected, or after a while."""
    end = time.monotonic() + 40
    while (written := site.records() - before) < expected and time.monotonic() < end:
        time.sleep(0.5)
    return written


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="faults whose names contain this")
    parser.add_argument(
        "--upgrade-from", default="", metavar="COMMIT", help="upgrade from this commit, and nothing else"
    )
    parser.add_argument("--seconds", type=float, help="how long a fault lasts, instead of its own time")
    parser.add_argument("--log", action="store_true", help="print the logs of the hosts at the end")
    arguments = parser.parse_args()
    if reason := machines.missing():
        parser.error(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started is stopped
    machines.isolated()
    chosen = [fault for fault in FAULTS if arguments.only in fault.name]
    if arguments.seconds is not None:
        chosen = [fault._replace(seconds=arguments.seconds) for fault in chosen]
    with tempfile.TemporaryDirectory(prefix="strake-faults-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        root = ROOT
        if arguments.upgrade_from:
            root = faults_upgrade.checkout(arguments.upgrade_from, folder)
            chosen = [Fault("rolling upgrade", faults_upgrade.upgrade, seconds=0, is_last=True)]
        print(f"| {COLUMNS} |\n|{' --- |' * 7}", flush=True)
        results = []
        for number, faults in enumerate(_by_site(chosen)):
            place = folder / str(number)
            place.mkdir()
            with site(place, root) as running:
                results += [run(running, fault) for fault in faults]
                if arguments.log:
                    sys.stderr.write(running.log())
    return int(not all(results))


def _by_site(faults: list[Fault]) -> list[list[Fault]]:
    """Those that can follow each other, and then each of the others."""
    groups = [[fault for fault in faults if not fault.is_last], *([fault] for fault in faults if fault.is_last)]
    return [group for group in groups if group]


def run(site: Site, fault: Fault) -> bool:
    """Measure a fault and print its row. Returns False if something failed that should not.

    Everything here shares a machine. If that stood still, timeouts say nothing, and the fault is measured again.
    """
    result, lost, lines = asyncio.run(measure(site, fault))
    tries = 1
    while result.longest_standstill > MAX_STANDSTILL_SECONDS and tries < 8 and not fault.is_last:
        sys.stderr.write(f"{fault.name}: the machine stood still for {result.longest_standstill:.1f} s\n")
        result, lost, lines = asyncio.run(measure(site, fault))
        tries += 1
    print(f"| {fault.name} | {result.row(lost, lines)} |", flush=True)
    return not fault.name.startswith(("rolling", "none")) or not (result.last_failure() or lost)


if __name__ == "__main__":
    sys.exit(main())
