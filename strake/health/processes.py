"""What server processes report: versions, master keys, the request log, and open requests."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from credentials.models import Endpoint, SealedKey
from credentials.vault import heartbeats
from credentials.vault.models import MasterKeyCheck, ServerProcess
from strake import __version__
from strake.health.findings import BAD, GOOD, WARN, Finding, counted

# The request log writes twice a second, so a longer lag means that its writes are blocked.
MAX_LAG_SECONDS = 10
MAX_ENDPOINTS = 10  # of those with requests open now, the busiest


@dataclass(frozen=True, slots=True)
class OpenRequests:
    """The requests that all proxy processes forward now, and the busiest endpoints, each with its number of them."""

    total: int
    busiest: list[tuple[Endpoint, int]]

    @property
    def others(self) -> int:
        """Requests of endpoints that are not among the busiest."""
        return self.total - sum(count for _, count in self.busiest)


@dataclass(frozen=True, slots=True)
class MasterKey:
    """One master key that something is sealed under, or that a process has loaded.

    `sealed` is the number of provider keys under it, and `lacking` names the processes that have not loaded it.
    """

    key_id: str
    is_primary: bool
    sealed: int
    loaded: int
    lacking: str
    first_used_at: datetime | None
    retired_at: datetime | None


def proxies_of(processes: Sequence[ServerProcess]) -> list[ServerProcess]:
    return [process for process in processes if process.kind == ServerProcess.Kind.PROXY]


def servers(processes: Sequence[ServerProcess]) -> Finding:
    if not processes:
        return Finding("Servers", WARN, "none is running, or none reaches this database")
    hosts = sorted({process.name.rpartition(":")[0] for process in processes})
    return Finding("Servers", GOOD, f"{counted(len(processes), 'process', 'processes')} on {', '.join(hosts)}")


def forwarding(proxies: Sequence[ServerProcess]) -> Finding:
    if not proxies:
        return Finding("Proxy", BAD, f"No proxy process has reported for {heartbeats.EXPIRY_SECONDS:.0f} s.")
    return Finding("Proxy", GOOD, f"{counted(len(proxies), 'process', 'processes')} forwarding requests")


def other_versions(processes: Sequence[ServerProcess]) -> Iterator[Finding]:
    """A note if processes run another version than this code, as during an upgrade."""
    if others := [process for process in processes if process.version != __version__]:
        listed = ", ".join(f"{process.name} ({process.version or 'older'})" for process in others)
        yield Finding("Other versions", WARN, f"Restart these processes to finish the upgrade: {listed}")


def request_log(proxies: Sequence[ServerProcess]) -> Finding:
    waiting, lost = sum(process.waiting for process in proxies), sum(process.lost for process in proxies)
    lag = max((process.lag_seconds for process in proxies), default=0.0)
    words = f"{counted(waiting, 'record')} waiting"
    if waiting:
        words += f", {lag:.1f} s behind"
    if lost:
        words += f". {lost:,} lost since the processes started"
    return Finding("Request log", BAD if lag >= MAX_LAG_SECONDS else WARN if lost else GOOD, words)


def open_requests(proxies: Sequence[ServerProcess]) -> OpenRequests:
    counts: Counter[str] = Counter()
    for process in proxies:
        counts.update(process.in_flight)
    busiest = counts.most_common(MAX_ENDPOINTS)
    # An endpoint may have been deleted meanwhile.
    endpoints = Endpoint.objects.filter(pk__in=[pk for pk, _ in busiest]).select_related("owner")
    known = {str(endpoint.pk): endpoint for endpoint in endpoints}
    return OpenRequests(
        total=sum(process.in_flight_total for process in proxies),
        busiest=[(known[pk], count) for pk, count in busiest if pk in known],
    )


# --- Master keys -----------------------------------------------------------------------------------------------------


def master_keys(proxies: Sequence[ServerProcess]) -> Finding:
    if not proxies:
        return Finding("Master keys", WARN, "unknown until a proxy process reports")
    if problems := list(_key_problems(proxies)):
        return Finding("Master keys", BAD, " ".join(problems))
    if keyrings := _different_keyrings(proxies):
        words = f"{keyrings} Each process holds every key in use, as during a rotation. Give all hosts one keyring."
        return Finding("Master keys", WARN, words)
    ring = proxies[0]
    return Finding("Master keys", GOOD, f"{ring.primary_key_id} is primary. Loaded: {', '.join(sorted(ring.key_ids))}")


def list_master_keys(proxies: Sequence[ServerProcess]) -> list[MasterKey]:
    """Every master key that matters, the primary one first, then by id."""
    checks = {check.key_id: check for check in MasterKeyCheck.objects.all()}
    sealed = SealedKey.objects.count_by_key()
    primaries = {process.primary_key_id for process in proxies}
    ids = {*checks, *sealed, *(key_id for process in proxies for key_id in process.key_ids)}
    found = []
    for key_id in ids:
        check = checks.get(key_id)
        lacking = [process.name for process in proxies if key_id not in process.key_ids]
        found.append(
            MasterKey(
                key_id=key_id,
                is_primary=key_id in primaries,
                sealed=sealed.get(key_id, 0),
                loaded=len(proxies) - len(lacking),
                lacking=", ".join(lacking),
                first_used_at=check.created_at if check else None,
                retired_at=check.retired_at if check else None,
            )
        )
    return sorted(found, key=lambda key: (not key.is_primary, key.key_id))


def rotation(keys: Sequence[MasterKey]) -> Finding:
    """How many provider keys a rotation has still to rewrap."""
    total = sum(key.sealed for key in keys)
    done = sum(key.sealed for key in keys if key.is_primary)
    if not any(key.is_primary for key in keys):
        return Finding("Rotation", WARN, "unknown until a proxy process reports")
    if done == total:
        return Finding(
            "Rotation", GOOD, f"nothing to do, {counted(total, 'provider key')} under the primary master key"
        )
    words = f"{done:,} of {counted(total, 'provider key')} under the primary master key, {done * 100 // total} %"
    return Finding("Rotation", WARN, f"{words}. Run or finish: manage.py rotate_master_key")


def _key_problems(proxies: Sequence[ServerProcess]) -> Iterator[str]:
    """Sentences about what is wrong with the keyrings that the proxy processes have loaded."""
    checks = {check.key_id: check for check in MasterKeyCheck.objects.all()}
    loaded = {pair for process in proxies for pair in process.key_ids.items()}
    ids = Counter(key_id for key_id, _ in loaded)
    if wrong := sorted({key_id for key_id, value in loaded if key_id in checks and value != _value(checks[key_id])}):
        yield f"Changed since their ids were first used: {', '.join(wrong)}."
    if ambiguous := sorted(key_id for key_id, keys in ids.items() if keys > 1):
        yield f"Different keys in different processes: {', '.join(ambiguous)}."
    in_use = {*SealedKey.objects.count_by_key(), *(process.primary_key_id for process in proxies)}
    if any(in_use & ids.keys() - process.key_ids.keys() for process in proxies):
        yield _different_keyrings(proxies)
    for primary_id in sorted({process.primary_key_id for process in proxies}):
        if primary_id in checks and checks[primary_id].retired_at is not None:
            yield f"{primary_id} is primary but retired, so no key can be saved. Make another one primary."
    if missing := SealedKey.objects.count_by_missing_key(ids):
        lost = ", ".join(f"{key_id} ({counted(count, 'endpoint')})" for key_id, count in missing.items())
        yield f"Missing, so these endpoints need their key again: {lost}."


def _different_keyrings(proxies: Sequence[ServerProcess]) -> str:
    """Which process has loaded which keyring, or "" if all have the same."""
    keyrings: dict[str, list[str]] = defaultdict(list)
    for process in proxies:
        keyrings[f"{process.primary_key_id} is primary, {', '.join(sorted(process.key_ids))} loaded"].append(
            process.name
        )
    if len(keyrings) < 2:
        return ""
    listed = ". ".join(f"{', '.join(names)}: {keyring}" for keyring, names in sorted(keyrings.items()))
    return f"The processes have loaded different keyrings. {listed}."


def _value(check: MasterKeyCheck) -> str:
    return bytes(check.check_value).hex()
