"""DAgger and recovery: the expert takes over from whatever it finds, and only that is recorded."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import SOLVED, TIMEOUT, TOY, ScriptedPolicy, ToyEnv, ToyExpert, load_scripted, toy_tasks
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.action_space import ActionSpace
from libra_vla.collection import Attempt, CollectConfig, Demonstration, collect, demonstrate
from libra_vla.collection.attempt import record
from libra_vla.collection.disturbance import (
    LEFT_ALONE,
    LEG,
    LEGS,
    PUSHED,
    SHOVE,
    TURN,
    Disturbance,
    draw_disturbance,
    draw_shoves,
)
from libra_vla.collection.handover import drive
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.execution.protocol import Plan
from libra_vla.observation import Observation, ObservationSpec
from libra_vla.simulation.benchmark import close_environment
from libra_vla.simulation.registry import LIBERO


class SolvableEnv(ToyEnv):
    """Its sampled scenes are solved at the sixth step."""

    def reset(self, *, seed, init_state=None, spread=0.0):
        super().reset(seed=seed, init_state=np.array([SOLVED]))


def make_solvable(task, *, image_size: int = 8, **options) -> SolvableEnv:
    return SolvableEnv(task, image_size)


class Reliable(ToyExpert):
    """Acts three times and always succeeds."""

    def act(self) -> np.ndarray:
        action = super().act()
        self.succeeded = self.done
        return action


SOLVABLE = replace(TOY, make_env=make_solvable, make_expert=Reliable)


def config(out: Path, **options) -> CollectConfig:
    defaults = {"tasks": "0,1", "episodes": 4, "workers": 0, "image_size": 16, "noise": 0.0}
    return CollectConfig(suite="toy", out=out, **defaults | options)


def gather(out: Path, **options) -> LeRobotDataset:
    """Collects from toys with a scripted policy, and opens the dataset."""
    run = options.pop("run", demonstrate)
    settings = config(out, policy=Path("run"), **options)
    collect(settings, run=run, benchmark=SOLVABLE, load_policy=load_scripted)
    return LeRobotDataset.open(out)


def columns(dataset: LeRobotDataset, name: str) -> list:
    return [episode.place[name] for episode in dataset.episodes]


def first_states(dataset: LeRobotDataset) -> np.ndarray:
    return np.array([dataset.states[episode.start] for episode in dataset.episodes])


# Hand-over


@given(seed=st.integers(0, 2**32 - 1))
def test_the_policy_drives_up_to_a_moment_before_it_is_done(seed: int):
    env = SolvableEnv(toy_tasks("toy")[0])
    steps = drive(
        env,
        load_scripted,
        Path("run"),
        end_effector=lambda e: e.position,
        budget=8,
        seed=3,
        spread=0.0,
        rng=np.random.default_rng(seed),
    )
    assert 0 <= steps == env.steps <= 5, "step six would solve the task"
    policy = ScriptedPolicy()
    x = policy.action_space.decode(np.repeat(np.arange(10)[:, None], 3, axis=1))[:, 0]
    assert env.position[0] == pytest.approx(0.01 * x[:steps].sum())


class SometimesSolvableEnv(SolvableEnv):
    """Solved at the sixth step if the seed is even."""

    def reset(self, *, seed, init_state=None, spread=0.0):
        super().reset(seed=seed)
        self.outcome = SOLVED if seed % 2 == 0 else TIMEOUT


@given(seed=st.integers(0, 2**32 - 1))
def test_what_the_policy_solves_is_passed_over(seed: int):
    def driven(env: ToyEnv, pass_over: int) -> int:
        return drive(
            env,
            load_scripted,
            Path("run"),
            end_effector=lambda e: e.position,
            budget=8,
            seed=2,
            spread=0.0,
            rng=np.random.default_rng(seed),
            pass_over=pass_over,
        )

    env = SometimesSolvableEnv(toy_tasks("toy")[0])
    steps = driven(env, 64)
    assert 4 <= steps == env.steps <= 8
    assert steps < 6 or env.seed % 2 == 1, "the episode of seed 2 is solved at step six"
    assert driven(SolvableEnv(toy_tasks("toy")[0]), 3) <= 5, "none fails: one is taken all the same"


def test_only_what_the_expert_did_is_recorded(tmp_path: Path):
    dataset = gather(tmp_path / "set", episodes=8)
    assert columns(dataset, "policy") == ["0" * 64] * 16 and dataset.metadata["policy"] == "0" * 64
    handed = np.array(columns(dataset, "hand_over"))
    assert len(set(handed.tolist())) > 2 and handed.max() <= 5
    assert {episode.length for episode in dataset.episodes} == {3}
    np.testing.assert_array_equal(dataset.actions, [[1.0, 0.0, -1.0]] * 48)
    moved = first_states(dataset)[:, 0] != 0.0
    np.testing.assert_array_equal(moved, handed > 0)


def test_beta_is_how_often_the_expert_drives(tmp_path: Path):
    assert set(columns(gather(tmp_path / "all", beta=1.0), "hand_over")) == {0}
    half = columns(gather(tmp_path / "half", beta=0.5, episodes=12), "hand_over")
    assert 4 < half.count(0) < 20
    with pytest.raises(LibraError, match=r"beta is 1\.5: expected a probability"):
        config(tmp_path / "x", policy=Path("run"), beta=1.5)
    with pytest.raises(LibraError, match="add --policy"):
        config(tmp_path / "x", beta=0.5)
    with pytest.raises(LibraError, match="pass_over is about a policy that drives"):
        config(tmp_path / "x", pass_over=2)


def test_workers_change_nothing(tmp_path: Path):
    options = {"recovery": 0.5, "beta": 0.3, "noise": 0.2}
    one = gather(tmp_path / "one", **options)
    two = gather(tmp_path / "two", workers=2, **options)
    np.testing.assert_array_equal(one.states, two.states)
    np.testing.assert_array_equal(one.actions, two.actions)
    for name in ("attempt", "hand_over", "disturbed_at", "noise"):
        assert columns(one, name) == columns(two, name)


def test_resuming_makes_the_same_episodes(tmp_path: Path):
    calls = itertools.count()

    def interrupted(attempt: Attempt) -> Demonstration:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return demonstrate(attempt)

    options = {"recovery": 0.5}
    whole = gather(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        gather(tmp_path / "set", run=interrupted, **options)
    resumed = gather(tmp_path / "set", resume=True, **options)
    np.testing.assert_array_equal(whole.states, resumed.states)
    assert columns(whole, "hand_over") == columns(resumed, "hand_over")


def load_another(folder: Path | str, device: str):
    policy = load_scripted(folder, device)
    policy.describe = lambda: {"checkpoint_hash": "1" * 64}  # pyright: ignore
    return policy


def demonstrate_the_first(attempt: Attempt) -> Demonstration:
    """The second task works once, and never again."""
    if attempt.task.index == 0 or attempt.number == 0:
        return demonstrate(attempt)
    return Demonstration(False, {}, np.zeros((0, 1)), np.zeros((0, 7)), 0.0)


def test_where_a_policy_drives_a_hopeless_task_keeps_what_it_has(tmp_path: Path, capfd):
    dataset = gather(tmp_path / "set", run=demonstrate_the_first)
    assert columns(dataset, "task") == [0, 0, 0, 0, 1]
    assert "failed 10 of 11 attempts" in (told := capfd.readouterr().err)
    assert "stays at 1 of 4 episodes" in told
    again = gather(tmp_path / "set", run=demonstrate_the_first, resume=True)
    assert len(again.episodes) == 5


def test_where_grasps_miss_a_hopeless_task_keeps_what_it_has(tmp_path: Path, capfd):
    collect(config(tmp_path / "set", fumble=1.0), run=demonstrate_the_first, benchmark=SOLVABLE)
    assert "stays at 1 of 4 episodes" in capfd.readouterr().err
    assert columns(LeRobotDataset.open(tmp_path / "set"), "task") == [0, 0, 0, 0, 1]


def test_another_policy_makes_another_dataset(tmp_path: Path):
    gather(tmp_path / "set")
    settings = config(tmp_path / "set", policy=Path("run"), resume=True)
    with pytest.raises(LibraError, match=r"cannot resume .* policy was '0000"):
        collect(settings, benchmark=SOLVABLE, load_policy=load_another)
    with pytest.raises(LibraError, match=r"cannot resume .* policy was '0000"):
        collect(replace(settings, policy=None), benchmark=SOLVABLE)


def test_a_policy_of_another_robot_is_refused(tmp_path: Path):
    for folder, message in [
        ("other_robot", "the environment does not follow the action convention"),
        ("other_camera", "unknown camera of Toy 'wrist'"),
        ("missing", "holds no policy"),
    ]:
        settings = config(tmp_path / "set", policy=tmp_path / folder)
        with pytest.raises(LibraError, match=message):
            collect(settings, benchmark=SOLVABLE, load_policy=load_scripted)
    assert not (tmp_path / "set").exists()


def test_a_dataset_of_an_older_version_is_continued(tmp_path: Path):
    settings = config(tmp_path / "set", episodes=1)
    collect(settings, benchmark=SOLVABLE)
    file = tmp_path / "set" / "attempts.json"
    record = json.loads(file.read_text())
    for name in ("policy", "beta", "recovery"):
        del record["settings"][name]
    file.write_text(json.dumps(record))
    more = replace(settings, episodes=2, resume=True)
    assert collect(more, benchmark=SOLVABLE)["episodes"] == 4
    file.unlink()
    with pytest.raises(LibraError, match="was not made by `libra collect`"):
        collect(more, benchmark=SOLVABLE)


# Disturbances


@given(seed=st.integers(0, 2**32 - 1))
def test_disturbances_stay_within_the_convention(seed: int):
    convention = LIBERO.convention
    one = draw_disturbance(np.random.default_rng(seed), convention, budget=220)
    moving, gripper = one.actions[:, :6], one.actions[:, 6]
    assert (np.abs(moving) <= 1.0).all() and (np.abs(moving[:, 3:]) <= TURN).all()
    if one.start == 0:
        assert LEGS * LEG[0] <= len(moving) <= LEGS * LEG[1]
        assert len(np.unique(moving, axis=0)) == LEGS and set(gripper) <= {-1.0, 1.0}
    else:
        assert one.start <= 77 and PUSHED[0] <= len(moving) <= PUSHED[1]
        assert np.isnan(gripper).all() or (gripper == -1.0).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_shoves_leave_the_fingers_and_time_to_recover(seed: int):
    convention = LIBERO.convention
    shoves = draw_shoves(np.random.default_rng(seed), convention, 300)
    ends = [0, *(shove.steps.stop for shove in shoves)]
    gaps = np.array([shove.start for shove in shoves]) - ends[:-1]
    assert LEFT_ALONE[0] <= gaps.min() and gaps.max() < LEFT_ALONE[1]
    assert shoves[-1].start < 300 <= ends[-1] + LEFT_ALONE[1]
    for shove in shoves:
        assert SHOVE[0] <= len(shove.actions) < SHOVE[1]
        assert len(np.unique(shove.actions[:, :6], axis=0)) == 1
        assert (np.abs(shove.actions[:, :6]) <= 1.0).all() and np.isnan(shove.actions[:, 6]).all()


def run_recording(disturbance: Disturbance | None) -> tuple[ToyEnv, np.ndarray, np.ndarray]:
    env = ToyEnv(toy_tasks("toy")[0])
    env.reset(seed=0)
    env.cameras = ("agentview",)
    rng = np.random.default_rng(0)
    options = {"rng": rng, "noise": 0.0, "max_steps": 9, "disturbance": disturbance}
    recording = record(env, Reliable(env), **options)
    return env, np.array(recording.states), np.array(recording.actions)


def test_labels_stay_clean_whatever_is_carried_out():
    back = np.array([[-1.0, 0.0, np.nan]] * 2)
    _, clean, actions = run_recording(None)
    env, early, same = run_recording(Disturbance(0, back))
    np.testing.assert_array_equal(actions, same)
    np.testing.assert_allclose(early[:, 0], clean[:, 0] - 0.02, atol=1e-6)
    assert (env.steps, len(early)) == (5, 3), "what comes before is not recorded"
    env, pushed, same = run_recording(Disturbance(1, back))
    np.testing.assert_array_equal(actions, same)
    np.testing.assert_allclose(pushed[:, 0], [0.0, 0.01, 0.0], atol=1e-6)
    assert (env.steps, len(pushed)) == (3, 3)


def test_shoves_are_carried_out_and_cut_a_recording():
    """One shove at the second step, one that goes on beyond the end; a picture every other step."""
    env = ToyEnv(toy_tasks("toy")[0])
    env.reset(seed=0)
    aside = np.array([[-1.0, 0.0, np.nan]])
    recording = record(
        env,
        Reliable(env),
        rng=np.random.default_rng(0),
        noise=0.0,
        max_steps=9,
        shoves=[Disturbance(1, aside), Disturbance(2, aside.repeat(4, axis=0))],
        draw_every=2,
    )
    np.testing.assert_array_equal(recording.actions, [[1.0, 0.0, -1.0]] * 3)
    np.testing.assert_allclose([s[0] for s in recording.states], [0.0, 0.01, 0.0], atol=1e-6)
    assert recording.shoved == [(1, 2), (2, 3)] and env.renders == 1
    frames = recording.frames["agentview"]
    assert len(frames) == 3 and frames[1] is frames[0] and frames[2] is frames[0]


def test_episodes_remember_their_shoves(tmp_path: Path):
    collect(config(tmp_path / "set", shoves=0.5, episodes=6), benchmark=SOLVABLE)
    assert columns(LeRobotDataset.open(tmp_path / "set"), "shoved") == [""] * 12, "they are short"
    with pytest.raises(LibraError, match=r"shoves is 1\.5: expected a probability"):
        config(tmp_path, shoves=1.5)


def test_episodes_remember_their_disturbance(tmp_path: Path):
    settings = config(tmp_path / "set", recovery=0.6, episodes=12)
    collect(settings, benchmark=SOLVABLE)
    dataset = LeRobotDataset.open(tmp_path / "set")
    begun = columns(dataset, "disturbed_at")
    moved = first_states(dataset)[:, 0] != 0.0
    np.testing.assert_array_equal(moved, np.array(begun) == 0)
    assert 0 < moved.sum() < 24 and set(begun) == {-1, 0, 1, 2}
    collect(config(tmp_path / "plain"), benchmark=SOLVABLE)
    plain = LeRobotDataset.open(tmp_path / "plain").episodes[0].place
    assert not {"disturbed_at", "hand_over", "policy"} & plain.keys()


# In the simulator


class Wanderer:
    """Moves the hand aside and down, with the fingers open."""

    action_space = ActionSpace(LIBERO.convention, (11,) * 7, (-1.0,) * 7, (1.0,) * 7)
    observation_spec = ObservationSpec(cameras=("agentview",), state_size=8)
    chunk, horizon_factor = 5, 2

    def reset(self, seed: int) -> None:
        self.seen = 0

    def plan(self, observation: Observation) -> Plan:
        assert set(observation.images) == {"agentview"}
        wanted = self.action_space.encode(np.array([[0.2, 0.4, -0.2, 0, 0, 0, -1.0]] * 10))
        return Plan(wanted, np.eye(11, dtype=np.float32)[wanted], observation.step)

    def refine(self, observation: Observation, coarse: np.ndarray) -> np.ndarray:
        return self.action_space.decode(coarse)

    def describe(self) -> dict:
        return {"checkpoint_hash": "wanderer"}


def load_wanderer(folder: Path | str, device: str) -> Wanderer:
    return Wanderer()


@pytest.mark.simulator
def test_the_expert_recovers_from_where_a_policy_went(tmp_path: Path):
    pytest.importorskip("libero")
    tasks = LIBERO.tasks

    def brief(suite: str):
        return [replace(task, step_budget=30) for task in tasks(suite)]

    settings = CollectConfig(
        suite="libero_object", out=tmp_path / "set", tasks="1", episodes=1, workers=0, seed=2,
        image_size=64, policy=Path("run"), recovery=1.0,
    )  # fmt: skip
    collect(settings, benchmark=replace(LIBERO, tasks=brief), load_policy=load_wanderer)
    close_environment()
    dataset = LeRobotDataset.open(tmp_path / "set")
    assert min(columns(dataset, "hand_over")) > 0
    at_home = np.array([-0.21, 0.0, 1.17])
    assert np.linalg.norm(first_states(dataset)[0, :3] - at_home) > 0.02
    assert (np.array(columns(dataset, "disturbed_at")) >= 0).all()
    assert np.abs(dataset.actions).max() <= 1.0
    assert set(np.unique(dataset.actions[:, 6])) == {-1.0, 1.0}


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("suite", "index", "phase"), [("libero_object", 1, "carry"), ("libero_goal", 0, "pull")]
)
def test_a_fresh_expert_does_not_let_go_of_what_is_held(suite: str, index: int, phase: str):
    pytest.importorskip("libero")
    task = LIBERO.choose(suite, str(index))[0]
    env = LIBERO.make_env(task, render=False)
    env.reset(seed=0)
    expert, steps = LIBERO.make_expert(env), 0
    expert.reset()
    while expert.phase != phase or steps < 5:
        steps += expert.phase == phase
        env.step(expert.act())
    fresh = LIBERO.make_expert(env)
    fresh.reset()
    action = fresh.act()
    assert (fresh.phase, action[6]) == (phase, 1.0)
    for _ in range(200):
        if fresh.done:
            break
        env.step(action)
        action = fresh.act()
    assert fresh.done and fresh.succeeded
    env.close()


@pytest.mark.simulator
def test_what_is_dropped_is_picked_up_again():
    pytest.importorskip("libero")
    env = LIBERO.make_env(LIBERO.choose("libero_object", "1")[0], render=False)
    expert = LIBERO.make_expert(env)
    env.reset(seed=0)
    expert.reset()
    lifted = 0
    while expert.phase != "carry":
        env.step(expert.act())
        lifted += 1
    env.reset(seed=0)
    env.cameras = ()
    opened = Disturbance(lifted, np.array([[0.0] * 6 + [-1.0]] * 6))
    rng = np.random.default_rng(0)
    recording = record(env, expert, rng=rng, noise=0.0, max_steps=400, disturbance=opened)
    fingers = np.array(recording.actions)[:, 6]
    assert fingers[lifted] == 1.0, "the label is to hold on"
    assert (fingers[lifted:] == -1.0).any(), "then to grasp again"
    assert (np.diff(fingers) > 0).sum() == 2, "the fingers close twice"
    assert expert.done and expert.succeeded
    env.close()
