"""Verifies an exported audit log offline: `python -m accounts.verify_audit FILE --key KEY`.

Needs no Django, no database and no settings: only this module, `accounts.audit_chain`, and the packages rfc8785 and
cryptography.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from accounts import audit_chain
from accounts.audit_chain import CONTENT_FIELDS, Checkpoint, NotACheckpoint, NotAKey, NotSignedWithKey, VerifierKey

DESCRIPTION = (
    "Verify an audit log that export_audit wrote, without a database. Names the first event that was changed, removed, "
    "inserted or reordered. Exit code 0 if the log is as it was signed, 1 if it is not, 2 for a wrong argument."
)
_LINK_FIELDS = frozenset({"sequence", "at", "content_hash", "previous_hash", "hash"})
_COMPLETE = _LINK_FIELDS | frozenset(CONTENT_FIELDS)
_ERASED = _LINK_FIELDS | {"erased"}


class Tampered(Exception):
    """The log is not as it was written. The message names the event."""


class Verification:
    """Reads an export line by line. `since` is the number of the event before the first line."""

    def __init__(self, key: VerifierKey, since: int = 0) -> None:
        self._key = key
        self._public = Ed25519PublicKey.from_public_bytes(key.public_key)
        self._since = self._last = since
        self._before_first = self._last_hash = None if since else audit_chain.GENESIS
        self._hashes = bytearray()  # 32 bytes for each event
        self._checkpoints: list[Checkpoint] = []
        self.erased = 0

    @property
    def last(self) -> int:
        """The number of the last event."""
        return self._last

    @property
    def signed(self) -> int:
        """The number of the last event that a checkpoint covers, or 0."""
        return max((checkpoint.size for checkpoint in self._checkpoints), default=0)

    def read(self, lines: Iterable[str]) -> None:
        """Verify the lines of an export. Raises `Tampered`."""
        for line in lines:
            self._read_event(_parsed(line, self._last + 1))

    def read_checkpoint(self, note: str) -> None:
        """Add a kept checkpoint. Raises `NotACheckpoint`."""
        self._checkpoints.append(audit_chain.read_note(note, self._key, self._is_signature))

    def finish(self) -> None:
        """Compare the events with the checkpoints. Raises `Tampered`."""
        good = 0
        for checkpoint in sorted(self._checkpoints, key=lambda checkpoint: checkpoint.size):
            if checkpoint.size > self._last:
                raise Tampered(
                    f"Event {self._last + 1} is missing: the checkpoint of {checkpoint.at} counts {checkpoint.size} "
                    f"events, and the file ends after {self._last}."
                )
            found = self._hash_of(checkpoint.size)
            if found is not None and found != checkpoint.hash:
                raise Tampered(
                    f"An event from {good + 1} to {checkpoint.size} has been changed, with all hashes after it: "
                    f"the checkpoint of {checkpoint.at} has another hash for event {checkpoint.size}."
                )
            good = checkpoint.size
        if not self._checkpoints:
            raise Tampered(
                f"No checkpoint was signed with the key {self._key.name}+{self._key.key_id.hex()}, so anybody can have "
                "written this file. Pass one that you kept: --checkpoint FILE"
            )
        if self.signed <= self._since:
            raise Tampered("No checkpoint counts any of these events, so anybody can have written this file.")

    def _hash_of(self, sequence: int) -> str | None:
        """Return the hash of an event, or None if it is before the first line."""
        if sequence == self._since:
            return self._before_first
        position = 32 * (sequence - self._since - 1)
        return self._hashes[position : position + 32].hex() if position >= 0 else None

    def _is_signature(self, signature: bytes, text: bytes) -> bool:
        try:
            self._public.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    def _read_event(self, event: dict[str, Any]) -> None:
        note = event.pop("checkpoint", None)
        number = self._last + 1
        is_erased = event.get("erased") is True
        if set(event) != (_ERASED if is_erased else _COMPLETE):
            raise Tampered(f"Event {number} has missing or unknown fields.")
        found = event["sequence"]
        if type(found) is not int or found != number:
            is_gap = type(found) is int and found > number
            what = f"is missing: event {found} follows" if is_gap else "is not in its place, or there twice"
            raise Tampered(f"Event {number} {what}.")
        if self._before_first is None:
            self._before_first = self._last_hash = event["previous_hash"]
        if event["previous_hash"] != self._last_hash:
            raise Tampered(f"Event {number} does not continue the event before it. One of the two was replaced.")
        self._check_hashes(event, number, is_erased=is_erased)
        self._last, self._last_hash = number, event["hash"]
        self._hashes += bytes.fromhex(event["hash"])
        self.erased += is_erased
        if note is not None:
            try:
                self.read_checkpoint(note if isinstance(note, str) else "")
            except NotSignedWithKey:
                pass  # perhaps the key before
            except NotACheckpoint as error:
                raise Tampered(f"The checkpoint beside event {number} is not valid. {error}") from None

    def _check_hashes(self, event: dict[str, Any], number: int, *, is_erased: bool) -> None:
        try:
            content = (
                event["content_hash"]
                if is_erased
                else audit_chain.content_hash({name: event[name] for name in CONTENT_FIELDS})
            )
            link = audit_chain.link_hash(
                sequence=number,
                at=event["at"],
                content_hash=event["content_hash"],
                previous_hash=event["previous_hash"],
            )
        except (ValueError, TypeError, RecursionError):  # not in the domain of RFC 8785
            content = link = ""
        if content != event["content_hash"]:
            raise Tampered(f"Event {number} has been changed: its content does not have its hash.")
        if link != event["hash"]:
            raise Tampered(f"Event {number} has been changed: its link does not have its hash.")


def _parsed(line: str, number: int) -> dict[str, Any]:
    try:
        event = json.loads(line, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise Tampered(f"The line of event {number} is no event.")
    return event


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a repeated name: other readers could take the other value. Raises `ValueError`."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is repeated")
    return found


# --- The command line ----------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the exported events, or - for standard input")
    parser.add_argument("--key", required=True, help="the public key, or the path of a file with it")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="FILE",
        help="a checkpoint that you kept. Only this finds a tail that was cut off together with its checkpoints",
    )
    parser.add_argument("--since", type=int, default=0, metavar="SEQ", help="the export was made with this --since")


def run(file: str, key: str, checkpoint: Sequence[str], since: int) -> str:
    """Verify a file and return what to print. Raises `Tampered`, or `ValueError` or `OSError` for a wrong argument."""
    text = key if "+" in key and not Path(key).exists() else Path(key).read_text(encoding="utf-8")
    verification = Verification(VerifierKey.parse(text), since)
    for path in checkpoint:
        verification.read_checkpoint(Path(path).read_text(encoding="utf-8"))
    with nullcontext(sys.stdin) if file == "-" else Path(file).open(encoding="utf-8") as lines:
        try:
            verification.read(lines)
        except UnicodeDecodeError:
            raise Tampered(f"The line of event {verification.last + 1} is no event.") from None
    if verification.last == since:
        raise Tampered("There is no event.")
    verification.finish()
    signed = min(verification.signed, verification.last)
    parts = [f"Events {since + 1} to {signed} are unchanged."]
    if verification.erased:
        parts.append(f"The content of {verification.erased} was erased, and their hashes are unchanged.")
    if signed < verification.last:
        parts.append(f"After event {signed}, nothing is signed yet, so anybody can have written it.")
    return " ".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="verify_audit", description=DESCRIPTION)
    add_arguments(parser)
    arguments = parser.parse_args()
    try:
        sys.stdout.write(run(**vars(arguments)) + "\n")
    except Tampered as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except (OSError, NotAKey, NotACheckpoint, UnicodeDecodeError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
