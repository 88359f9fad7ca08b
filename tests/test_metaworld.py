"""Meta-World: the names, the seeds, the scenes as a policy sees them, and the experts."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from fakes import ScriptedPolicy
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.action_space import ActionSpace
from libra_vla.collection import CollectConfig, collect
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.evaluation.config import EvalConfig
from libra_vla.evaluation.evaluate import evaluate
from libra_vla.observation import ObservationSpec
from libra_vla.simulation.libero.environment import LIBERO_CONVENTION
from libra_vla.simulation.metaworld.environment import (
    AFTERWARDS,
    CAMERAS,
    METAWORLD_CONVENTION,
    MetaworldEnv,
    MetaworldExpert,
    scene_seed,
)
from libra_vla.simulation.metaworld.tasks import INSTRUCTIONS, SUITES, official_states
from libra_vla.simulation.registry import METAWORLD, benchmark_of
from libra_vla.simulation.rendering import choose_backend

SUITE = "metaworld_mt10"

if find_spec("metaworld") is None:
    pytest.skip("Meta-World is not installed", allow_module_level=True)


def make_env(name: str, **options) -> MetaworldEnv:
    return MetaworldEnv(METAWORLD.choose("metaworld_mt50", name)[0], **options)


# Tasks and seeds


def test_the_tasks_are_the_packages_own():
    choose_backend()
    from metaworld.env_dict import MT10_V3, MT50_V3

    for suite, theirs in (("metaworld_mt10", MT10_V3), ("metaworld_mt50", MT50_V3)):
        assert [f"{task.name}-v3" for task in METAWORLD.tasks(suite)] == list(theirs)
    assert len(set(INSTRUCTIONS.values())) == len(SUITES["metaworld_mt50"]) == 50


def test_tasks_go_by_name_and_by_index():
    assert benchmark_of(SUITE) is METAWORLD
    chosen = METAWORLD.choose(SUITE, "drawer-open,0")
    assert [(task.index, task.name) for task in chosen] == [(0, "reach"), (4, "drawer-open")]
    assert chosen[1].instruction == "open the drawer" and chosen[1].step_budget == 250
    with pytest.raises(LibraError, match="'drawer-opne': did you mean 'drawer-open'"):
        METAWORLD.choose(SUITE, "drawer-opne")
    with pytest.raises(LibraError, match="unknown suite 'metaworld_mt1': did you mean 'metaworld"):
        benchmark_of("metaworld_mt1")


@given(seed=st.integers(0, 2**64 - 1), task=st.sampled_from(METAWORLD.tasks("metaworld_mt50")))
def test_no_demonstration_starts_where_an_evaluation_does(seed: int, task):
    states = official_states(task)
    reserved = [scene_seed(seed, state) for state in states]
    assert len(set(reserved)) == len(states) == 50
    assert scene_seed(seed) not in reserved


def test_states_of_another_benchmark():
    for state in (np.zeros(77), np.zeros(1)):
        with pytest.raises(LibraError, match="it belongs to another benchmark"):
            scene_seed(0, state)


# Scenes


def episode(env: MetaworldEnv, seed: int, steps: int = 3) -> list[np.ndarray]:
    """What a policy sees of a few seeded actions."""
    env.reset(seed=seed)
    seen = [env.observe()]
    for action in np.random.default_rng(0).uniform(-1, 1, size=(steps, 4)):
        env.step(action)
        seen.append(env.observe())
    return [value for s in seen for value in (*s.images.values(), s.state)]


@pytest.mark.simulator
def test_a_seed_decides_every_pixel_whatever_came_before():
    env = make_env("peg-insert-side", image_size=64)
    first, other, again = (episode(env, seed) for seed in (3, 4, 3))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[1], other[1]), "the peg lies elsewhere"
    assert first[0].shape == (64, 64, 3) and first[2].dtype == np.float32
    env.reset(seed=3, init_state=official_states(env.task)[0])
    assert not np.array_equal(env.observe().images["wrist"], first[1])
    env.close()


@pytest.mark.simulator
@pytest.mark.parametrize("name", ["reach", "drawer-open"])
def test_the_first_frame_shows_the_scene_as_it_is(name: str):
    env = make_env(name)
    import mujoco

    scene = env.metaworld_env
    env.reset(seed=1)
    before = env.observe().images
    mujoco.mj_forward(scene.model, scene.data)
    assert all(np.array_equal(before[c], env.observe().images[c]) for c in CAMERAS)
    told = env.privileged[4:7]
    env.step(np.zeros(4))
    np.testing.assert_allclose(told, env.privileged[4:7], atol=2e-3)
    scene.seed(2)
    scene.reset()
    stale = env.observe().images["corner"]
    mujoco.mj_forward(scene.model, scene.data)
    assert not np.array_equal(stale, env.observe().images["corner"]), "the package still needs it"
    env.close()


@pytest.mark.simulator
def test_the_corners_camera_stands_upright():
    env = make_env("drawer-open", image_size=64)
    env.reset(seed=0)
    axes = env.metaworld_env.data.camera(CAMERAS["corner"]).xmat.reshape(3, 3)
    assert axes[2, 1] > 0.5, "up in the picture is up in the world"
    assert np.linalg.det(axes) == pytest.approx(1.0), "and it is no mirror"
    env.close()


@pytest.mark.simulator
def test_what_is_out_of_view_changes_no_pixel():
    env = make_env("window-open")
    env.reset(seed=0)
    expert = MetaworldExpert(env)
    for _ in range(3):
        for name, image in env.observe().images.items():
            renderer = env._renderer.renderer
            renderer.update_scene(env.metaworld_env.data, camera=CAMERAS[name])
            assert np.array_equal(image, renderer.render())
        for _ in range(12):
            env.step(expert.act())
    env.close()


@pytest.mark.simulator
def test_a_policy_sees_the_hand_and_not_the_object():
    env = make_env("push", image_size=32, cameras=("wrist",))
    states = []
    for seed in (0, 1):
        env.reset(seed=seed)
        seen = env.observe()
        assert (list(seen.images), seen.step) == (["wrist"], 0)
        states.append(seen.state)
    assert np.allclose(*states, atol=1e-3), "the hand starts alike; only a look tells the puck"
    np.testing.assert_allclose(seen.state[:3], METAWORLD.end_effector(env), atol=1e-6)
    for _ in range(20):
        env.step(np.array([0.0, 0.0, 0.0, 1.0]))
    assert env.observe().state[3] < seen.state[3] - 0.3, "closed"
    with pytest.raises(LibraError, match="unknown camera 'wrst': did you mean 'wrist'"):
        env.cameras = ("wrst",)
    with pytest.raises(LibraError, match="expected 4 finite numbers"):
        env.step(np.zeros(7))
    env.close()


@pytest.mark.simulator
def test_beyond_the_range_an_action_is_clipped():
    env = make_env("reach", render=False)
    found = []
    for factor in (1.0, 12.0):
        env.reset(seed=0)
        for _ in range(4):
            env.step(factor * np.array([1.0, -1.0, 1.0, -1.0]))
        found.append(env.privileged)
    np.testing.assert_array_equal(*found)
    env.close()


# Experts


@pytest.mark.simulator
def test_an_expert_ends_a_little_after_the_first_success():
    env = make_env("door-open", render=False)
    env.reset(seed=5)
    expert = MetaworldExpert(env)
    outcomes = []
    while not expert.done:
        action = expert.act()
        assert action.shape == (4,) and np.abs(action).max() <= 1.0
        outcomes.append(env.step(action))
    assert expert.succeeded and outcomes.index(True) + 1 == env.solved[0] < 60
    assert len(outcomes) == env.solved[0] + AFTERWARDS
    expert.reset()
    assert not expert.succeeded and not expert.done, "it takes over here"
    env.reset(seed=5)
    expert.reset()
    for _ in range(env.task.step_budget):
        env.step(np.zeros(4))
    assert expert.done and not expert.succeeded
    env.close()


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("task", METAWORLD.tasks("metaworld_mt50"), ids=lambda task: task.name)
def test_every_task_has_an_expert(task):
    env = make_env(task.name, render=False)
    expert = MetaworldExpert(env)
    solved = 0
    for seed in range(4):
        env.reset(seed=seed)
        expert.reset()
        while not expert.done:
            env.step(expert.act())
        solved += expert.succeeded
    env.close()
    assert solved >= 3


# Demonstrations and evaluations


@pytest.mark.simulator
def test_demonstrations_are_written_with_their_own_convention(tmp_path: Path):
    options = {"episodes": 2, "workers": 0, "image_size": 64, "noise": 0.2}
    tasks = "drawer-open,button-press-topdown"
    summary = collect(CollectConfig(SUITE, tmp_path / "set", tasks=tasks, **options))
    assert summary["episodes"] == 4
    dataset = LeRobotDataset.open(tmp_path / "set")
    assert dataset.convention == METAWORLD_CONVENTION and dataset.fps == 40.0
    assert set(dataset.tasks) == {"open the drawer", "press the button down from above"}
    assert (dataset.states.shape[1], dataset.actions.shape[1]) == (4, 4)
    assert dataset.cameras == tuple(CAMERAS) and np.abs(dataset.actions).max() <= 1.0
    assert dataset.metadata["meshes"] == "stock" and dataset.metadata["versions"]["metaworld"]
    frames = dataset.frames(0, "wrist").astype(int)
    assert np.abs(frames[-1] - frames[0]).max() > 60, "nothing moved"


def load_scripted(folder: Path | str, device: str) -> ScriptedPolicy:
    space = ActionSpace(METAWORLD_CONVENTION, (10,) * 4, (-1.0,) * 4, (1.0,) * 4)
    return ScriptedPolicy(action_space=space, observation_spec=ObservationSpec(("wrist",), 4))


def load_for_libero(folder: Path | str, device: str) -> ScriptedPolicy:
    space = ActionSpace(LIBERO_CONVENTION, (10,) * 7, (-1.0,) * 7, (1.0,) * 7)
    return ScriptedPolicy(action_space=space, observation_spec=ObservationSpec(("agentview",), 8))


def evaluation(tmp_path: Path, **options) -> EvalConfig:
    defaults = {"tasks": "reach", "episodes": 2, "workers": 0, "max_steps": 6}
    return EvalConfig(tmp_path / "run", SUITE, tmp_path / "out", **defaults | options)


@pytest.mark.simulator
def test_an_evaluation_starts_from_the_official_seeds(tmp_path: Path):
    config = evaluation(tmp_path)
    results = evaluate(config, load_policy=load_scripted, on_progress=lambda *_: None)
    assert (results["episodes"], results["errors"]) == (2, 0)
    protocol = results["protocol"]
    assert (protocol["official"], protocol["image_size"], protocol["settle_steps"]) == (
        False, 128, 0,
    )  # fmt: skip
    assert [trial["init_state"] for trial in results["trials"]] == [0, 1]
    assert results["smoothness"]["path_length"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 51}, "has 50 official initial states per task"),
        ({"meshes": "decimated"}, "unknown meshes of Meta-World 'decimated': known: stock"),
        ({"states": "sampled", "spread": 0.1}, "Meta-World cannot spread its objects"),
        ({"move_object": "3:0.1"}, "Meta-World has no object to move"),
    ],
)
def test_what_cannot_be_evaluated(tmp_path: Path, options, message):
    with pytest.raises(LibraError, match=message):
        evaluate(evaluation(tmp_path, **options), load_policy=load_scripted)


def test_a_policy_of_libero_is_refused_by_what_differs(tmp_path: Path):
    with pytest.raises(LibraError) as raised:
        evaluate(evaluation(tmp_path), load_policy=load_for_libero)
    told = str(raised.value)
    assert told.startswith("metaworld_mt10 does not follow the action convention of the policy")
    assert "rate_hz is 40.0 instead of 20.0" in told and "\n" not in told
    assert not (tmp_path / "out").exists()
