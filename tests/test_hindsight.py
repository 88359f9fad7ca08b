"""Demonstrations whose gripper moves in time, in hindsight."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import CONVENTION, write_dataset
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.training import TrainConfig, train
from libra_vla.training.hindsight import hastened


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    folder = tmp_path_factory.mktemp("hindsight")
    return LeRobotDataset.open(write_dataset(folder / "set", episodes=1, length=20))


def demonstration(recorded: LeRobotDataset, hand: Any, closed: Any) -> LeRobotDataset:
    """One in which the hand is at `hand` [20], and the gripper is told to close where `closed`."""
    actions, states = recorded.actions.copy(), np.zeros_like(recorded.states)
    actions[:, 2] = np.where(closed, 1.0, -1.0)
    states[:, 0] = hand
    return replace(recorded, actions=actions, states=states)


def test_it_closes_where_it_has_waited_to_close(recorded: LeRobotDataset):
    """Ten steps of 1 cm, six of waiting, and four with the gripper closed."""
    hand = np.minimum(np.arange(20), 10) * 0.01
    told = hastened(demonstration(recorded, hand, np.arange(20) >= 16))
    # An ordinary step is 10 cm in 19: it is there from 1.05 cm on.
    assert np.flatnonzero(told.actions[:, 2] > 0).tolist() == list(range(9, 20))
    assert np.array_equal(told.actions[:, :2], recorded.actions[:, :2]), "it moves as before"


def test_who_comes_slowly_nearer_is_not_there(recorded: LeRobotDataset):
    """It slows down, and closes the fourth step after it came within two ordinary ones."""
    hand = np.concatenate([np.arange(12) * 0.01, 0.115 + 0.005 * np.arange(4), np.full(4, 0.13)])
    before = demonstration(recorded, hand, np.arange(20) >= 15)
    assert np.array_equal(hastened(before).actions, before.actions)


def test_it_waits_for_what_else_moves(recorded: LeRobotDataset):
    """The hand is there, and turns until the gripper opens: that is no waiting."""
    dataset = demonstration(recorded, np.zeros(20), np.arange(20) < 16)
    dataset.states[:, 3] = np.arange(20) * 0.1
    opened = np.flatnonzero(hastened(dataset).actions[:, 2] < 0)
    assert opened.tolist() == list(range(16, 20)), "two ordinary steps are no quarter of a second"


def test_nothing_is_waited_for_through_a_shove(tmp_path: Path):
    path = write_dataset(tmp_path / "set", episodes=1, length=20, shoved="6:10")
    dataset = demonstration(LeRobotDataset.open(path), np.arange(20) * 0.01, np.arange(20) >= 16)
    dataset.states[5:, 0] = 0.05
    told = hastened(dataset).actions[:, 2]
    assert np.flatnonzero(told > 0).tolist() == list(range(10, 20))


@given(
    st.lists(st.floats(-0.3, 0.3), min_size=20, max_size=20),
    st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_it_does_the_same_and_never_later(
    recorded: LeRobotDataset, hand: list[float], closed: list[bool]
):
    before = demonstration(recorded, hand, closed)
    told = hastened(before).actions[:, 2]
    first, then = (np.flatnonzero(np.diff(x)) for x in (before.actions[:, 2], told))
    assert len(first) >= len(then), "what was brief may be gone, and nothing is new"
    assert told[-1] == before.actions[-1, 2]
    for moved in then:
        later = first[(first >= moved) & (before.actions[first + 1, 2] == told[moved + 1])]
        assert len(later), "the demonstration does so, too, then or later"


def test_training_is_told_in_time(recorded: LeRobotDataset, tmp_path: Path):
    options: dict[str, Any] = {"data": recorded.path, "preset": "tiny", "steps": 1, "threads": 1}
    for hasten in (False, True):
        train(TrainConfig(out=tmp_path / str(hasten), hasten=hasten, **options))
    with pytest.raises(LibraError, match="hasten"):
        train(TrainConfig(out=tmp_path / "False", hasten=True, resume=True, **options))
    still = replace(CONVENTION, names=("x", "y", "z"), gripper=None)
    path = write_dataset(tmp_path / "none", convention=still)
    with pytest.raises(LibraError, match="no gripper to hasten: leave out --hasten"):
        train(TrainConfig(out=tmp_path / "no", hasten=True, **options | {"data": path}))
    assert not (tmp_path / "no").exists()
