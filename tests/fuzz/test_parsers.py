"""Every parser holds its invariants for the corpus, and for a fixed number of random changes to it."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.mutate import mutate
from tests.fuzz.parsers import CORPUS, TARGETS, seeds

MUTATIONS = 300


@pytest.mark.parametrize("name", TARGETS)
def test_parser_holds_for_its_corpus(name: str) -> None:
    for data in seeds(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_parser_holds_for_mutations_of_its_corpus(name: str) -> None:
    rng, corpus = random.Random(name), seeds(name)
    for _ in range(MUTATIONS):
        TARGETS[name](mutate(rng, rng.choice(corpus), corpus))


def test_corpus_has_a_folder_for_every_parser() -> None:
    folders = {path.name for path in CORPUS.iterdir()}
    assert set(TARGETS) <= folders
    assert all(len(seeds(name)) >= 2 for name in TARGETS)
