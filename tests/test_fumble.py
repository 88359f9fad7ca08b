"""A grasp that misses on purpose, and an expert that finds what came of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import TOY, ToyEnv, ToyExpert, toy_tasks
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.action_space import ActionConvention
from libra_vla.collection import CollectConfig, collect
from libra_vla.collection.fumble import ASIDE, BACK, KEPT, fumble
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.simulation.benchmark import close_environment
from libra_vla.simulation.registry import LIBERO

SPACE = ActionConvention(
    names=("dx", "dy", "dz", "turn", "gripper"),
    units=("0.05 m", "0.05 m", "0.05 m", "0.5 rad", "1"),
    representation="toy deltas",
    rate_hz=10.0,
    gripper=4,
    gripper_open=-1.0,
    gripper_closed=1.0,
    rest="zero",
)


class SpaceEnv(ToyEnv):
    """Moves by exactly what it is told, and remembers it."""

    convention = SPACE

    def reset(self, **options) -> None:
        super().reset(**options)
        self.pose, self.taken = np.zeros(4), []

    def step(self, action: np.ndarray) -> bool:
        self.taken.append(action)
        self.pose = self.pose + action[:4]
        return False


HELD = 15


class Grasper:
    """Goes down for `reach` steps, closes, goes up, and opens."""

    def __init__(self, env: SpaceEnv, reach: int) -> None:
        self.env, self.reach = env, reach

    def reset(self) -> None:
        self.acted = 0

    @property
    def done(self) -> bool:
        return self.acted == self.reach + HELD + 1

    @property
    def succeeded(self) -> bool:
        return self.done

    def act(self) -> np.ndarray:
        self.acted += 1
        carried = 0 < self.acted - self.reach <= HELD
        way = -0.5 if self.acted <= self.reach else 0.5
        return np.array([0.0, 0.0, way, 0.1, 1.0 if carried else -1.0])


def spoilt(seed: int, reach: int, max_steps: int = 100) -> tuple[SpaceEnv, int]:
    env = SpaceEnv(toy_tasks("toy")[0])
    env.reset(seed=0)
    expert = Grasper(env, reach)
    rng = np.random.default_rng(seed)
    return env, fumble(env, expert, rng=rng, noise=0.0, max_steps=max_steps)


@given(seed=st.integers(0, 2**32 - 1), reach=st.integers(1, 20))
def test_the_fingers_move_beside_the_place(seed: int, reach: int):
    env, steps = spoilt(seed, reach)
    assert steps == len(env.taken)
    taken = np.array(env.taken)
    assert np.abs(taken).max() <= 1.0
    before, kept, away = parts(taken)
    assert len(kept) == KEPT and len(set(taken[len(before) :, 4])) == 1
    closes = kept[0, 4] == 1.0
    assert (before[-1, 4] == 1.0) != closes, "the fingers stay as they were until then"
    # Where the expert would have been, but for the way aside.
    x, y, z, turn = before[:, :4].sum(axis=0)
    assert z == pytest.approx(-0.5 * reach + (0.0 if closes else 0.5 * HELD))
    assert turn == pytest.approx(0.1 * (reach if closes else reach + HELD))
    aside = np.hypot(x, y)
    assert ASIDE[0] - 1e-6 <= aside <= ASIDE[1] - 1 + 1e-6 and aside == pytest.approx(round(aside))
    assert steps <= reach + HELD + 2 * BACK + ASIDE[1] + KEPT + BACK
    assert len(away) <= min(BACK, reach if closes else HELD)
    back = [0.0, 0.0, 0.5 if closes else -0.5, -0.1]
    np.testing.assert_allclose(away[:, :4], np.tile(back, (len(away), 1)))


def parts(taken: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What was done before the fingers moved, while they did, and after."""
    still = np.flatnonzero(~taken[:, :4].any(axis=1))
    return taken[: still[0]], taken[still[0] : still[-1] + 1], taken[still[-1] + 1 :]


def test_half_of_the_hands_go_away_as_if_nothing_had_missed():
    gone = [len(parts(np.array(spoilt(seed, 15)[0].taken))[2]) for seed in range(200)]
    assert 80 < sum(steps > 0 for steps in gone) < 120
    assert max(gone) == BACK


def test_grasps_miss_more_often_than_placements():
    closed = [spoilt(seed, 5)[0].taken[-1][4] == 1.0 for seed in range(200)]
    assert 110 < sum(closed) < 155


def test_an_expert_that_is_stopped_before_has_missed_nothing():
    env, steps = spoilt(3, 20, max_steps=10)
    assert steps == 0 and len(env.taken) == 10
    assert {float(action[4]) for action in env.taken} == {-1.0}


def test_beside_a_policy_or_out_of_range_it_is_refused(tmp_path: Path):
    with pytest.raises(LibraError, match=r"fumble is 1\.5: expected a probability"):
        CollectConfig(suite="toy", out=tmp_path, fumble=1.5)
    with pytest.raises(LibraError, match="it is the policy that fumbles"):
        CollectConfig(suite="toy", out=tmp_path, fumble=0.5, policy=Path("run"))


class Reliable(ToyExpert):
    """Closes at its second step, and always succeeds at its third."""

    def act(self) -> np.ndarray:
        action = super().act()
        self.succeeded = self.done
        return np.array([*action[:2], -1.0 if self.left == 2 else 1.0])


class Open(ToyExpert):
    """Always succeeds, without its fingers."""

    def act(self) -> np.ndarray:
        action = super().act()
        self.succeeded = self.done
        return action


def gather(out: Path, expert: type[ToyExpert]) -> tuple[LeRobotDataset, np.ndarray]:
    """Returns a dataset in which half of the episodes are to follow a miss, and `fumbled`."""
    config = CollectConfig(
        suite="toy", out=out, tasks="0", episodes=12, workers=0, image_size=16, fumble=0.5
    )
    collect(config, benchmark=replace(TOY, make_expert=expert))
    dataset = LeRobotDataset.open(out)
    assert dataset.metadata["fumble"] == 0.5
    assert {episode.length for episode in dataset.episodes} == {3}
    return dataset, np.array([episode.place["fumbled"] for episode in dataset.episodes])


def test_only_what_follows_is_recorded(tmp_path: Path):
    dataset, fumbled = gather(tmp_path / "set", Reliable)
    assert 2 < (fumbled == 0).sum() < 11
    assert (fumbled[fumbled > 0] >= KEPT + 2).all()
    first = np.array([dataset.states[episode.start, 0] for episode in dataset.episodes])
    np.testing.assert_array_equal(first != 0.0, fumbled > 0)


def test_an_episode_without_fingers_begins_at_its_beginning(tmp_path: Path):
    dataset, fumbled = gather(tmp_path / "set", Open)
    assert not fumbled.any()
    assert not any(dataset.states[episode.start, 0] for episode in dataset.episodes)


@pytest.mark.simulator
def test_the_expert_grasps_what_it_has_missed(tmp_path: Path):
    pytest.importorskip("libero")
    settings = CollectConfig(
        suite="libero_object", out=tmp_path / "set", tasks="1", episodes=2, workers=0, seed=2,
        image_size=64, fumble=1.0,
    )  # fmt: skip
    collect(settings, benchmark=LIBERO)
    close_environment()
    dataset = LeRobotDataset.open(tmp_path / "set")
    for episode in dataset.episodes:
        assert episode.place["fumbled"] > KEPT
        at_home = np.array([-0.21, 0.0, 1.17])
        assert np.linalg.norm(dataset.states[episode.start, :3] - at_home) > 0.05
    assert set(np.unique(dataset.actions[:, 6])) == {-1.0, 1.0}
