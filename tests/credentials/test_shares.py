"""The fair queue: no owner takes more than a share, and owners take turns."""

from __future__ import annotations

from credentials.shares import Shares


def drain(shares: Shares[int]) -> list[tuple[object, int]]:
    taken = []
    while (found := shares.next()) is not None:
        taken.append(found)
    return taken


def test_owner_gets_no_more_than_a_share() -> None:
    shares = Shares[int](total=10, per_owner=2)
    for item in range(5):
        shares.add("mallory", item)
    shares.add("alice", 7)
    assert drain(shares) == [("mallory", 0), ("alice", 7), ("mallory", 1)]
    assert shares.waiting("mallory") == 3
    shares.free("mallory")
    assert drain(shares) == [("mallory", 2)]


def test_owners_take_turns_when_all_places_are_taken() -> None:
    shares = Shares[int](total=2, per_owner=2)
    assert shares.try_take("mallory")
    assert shares.try_take("mallory")
    assert not shares.try_take("alice")
    for item in range(3):
        shares.add("mallory", item)
    shares.add("alice", 7)
    assert drain(shares) == []
    shares.free("mallory")
    assert drain(shares) == [("mallory", 0)]
    shares.free("mallory")
    assert drain(shares) == [("alice", 7)]


def test_removed_item_gets_no_place() -> None:
    shares = Shares[int](total=1, per_owner=1)
    assert shares.try_take("alice")
    shares.add("alice", 1)
    shares.remove("alice", 1)
    shares.remove("alice", 2)
    shares.free("alice")
    assert drain(shares) == []
    assert shares.waiting("alice") == 0
    assert shares.try_take("alice")
