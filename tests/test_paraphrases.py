"""Paraphrases: enough of them, plain, and never the same for two tasks."""

import itertools
import re

import numpy as np
import pytest

from libra_vla.errors import LibraError
from libra_vla.paraphrases import HELD_OUT, paraphrase, paraphrases
from libra_vla.simulation.libero.suites import SUITES, load_tasks
from libra_vla.training.samples import Augmentation


@pytest.fixture(params=SUITES)
def instructions(request) -> list[str]:
    pytest.importorskip("libero")
    return sorted({task.instruction for task in load_tasks(request.param)})


def test_every_task_has_at_least_four_others(instructions: list[str]):
    for instruction in instructions:
        others = paraphrases(instruction)
        assert len(set(others)) == len(others) >= 4
        assert instruction not in others


def test_no_two_tasks_share_a_wording(instructions: list[str]):
    wordings = {text: {text, *paraphrases(text)} for text in instructions}
    for one, other in itertools.combinations(instructions, 2):
        assert not wordings[one] & wordings[other]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def test_what_a_task_is_about_is_always_named(instructions: list[str]):
    """Only verbs, prepositions and connectives change, so nouns and adjectives stay."""
    small = {"on", "off", "in", "to", "and", "pick", "up", "put", "place"}
    small |= {"open", "close", "turn", "stack", "push"}
    for instruction in instructions:
        for other in paraphrases(instruction):
            assert words(instruction) - small <= words(other)


def test_verbs_of_the_held_out_wording_are_new(instructions: list[str]):
    seen = set().union(*map(words, instructions))
    for text in instructions:
        for number, other in enumerate(paraphrases(text)):
            seen |= words(other) if number != HELD_OUT else set()
    for text in instructions:
        assert words(paraphrase(text, HELD_OUT)) - seen


def test_clauses_are_told_apart_from_lists():
    assert paraphrase("put both the soup and the sauce in the basket", 2) == (
        "move both the soup and the sauce into the basket"
    )
    assert paraphrase("pick up the white and red mug and place it on the plate", 1) == (
        "grab the white and red mug, then put it on the plate"
    )


def test_unknown_forms_and_numbers():
    assert paraphrases("wave") == () and paraphrases("wave and open the door") == ()
    with pytest.raises(LibraError, match=r"'wave' has no paraphrase 0: its form is unknown"):
        paraphrase("wave", 0)
    with pytest.raises(LibraError, match=r"no paraphrase 7: expected 0 to 4"):
        paraphrase("open the door", 7)


def test_training_draws_the_others_as_often_as_asked():
    text = "open the door"
    told = Augmentation(paraphrase=0.5).words([text] * 2000, np.random.default_rng(0))
    assert abs(told.count(text) / 2000 - 0.5) < 0.05
    assert set(told) == {text, *paraphrases(text)} - {paraphrase(text, HELD_OUT)}
    again = Augmentation(paraphrase=0.5).words([text] * 2000, np.random.default_rng(0))
    assert told == again
    assert Augmentation().words([text], np.random.default_rng(0)) == (text,)
    assert Augmentation(paraphrase=1.0).words(["wave"], np.random.default_rng(0)) == ("wave",)
