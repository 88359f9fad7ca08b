"""Evaluation on the real LIBERO, with a scripted policy."""

from pathlib import Path

import numpy as np
import pytest
from fakes import ScriptedPolicy

from libra_vla.action_space import ActionSpace
from libra_vla.evaluation.evaluate import permuted
from libra_vla.evaluation.trial import Job, run_trial
from libra_vla.execution.executor import ExecutionConfig
from libra_vla.observation import ObservationSpec
from libra_vla.simulation.libero.probes import goal_here
from libra_vla.simulation.libero.suites import load_tasks, official_states
from libra_vla.simulation.registry import LIBERO

pytestmark = pytest.mark.simulator


def load_scripted(folder: Path, device: str) -> ScriptedPolicy:
    from libra_vla.simulation.libero.environment import LIBERO_CONVENTION

    space = ActionSpace(LIBERO_CONVENTION, (10,) * 7, (-1.0,) * 7, (1.0,) * 7)
    spec = ObservationSpec(cameras=("agentview",), state_size=8)
    return ScriptedPolicy(action_space=space, observation_spec=spec)


@pytest.fixture(scope="module", autouse=True)
def libero():
    pytest.importorskip("libero")


def job(suite: str, **options) -> Job:
    task = load_tasks(suite)[0]
    defaults = {
        "policy": Path("scripted"),
        "device": "cpu",
        "execution": ExecutionConfig(),
        "load_policy": load_scripted,
        "benchmark": LIBERO,
        "task": task,
        "trial": 0,
        "seed": 5,
        "init_state": official_states(task)[0],
        "spread": 0.0,
        "step_budget": 12,
        "image_size": 64,
        "meshes": "stock",
    }
    return Job(**defaults | options)


def test_a_trial_on_libero_is_reproducible_and_measured():
    first, second = (run_trial(job("libero_spatial")) for _ in range(2))
    assert (first.error, first.failure, first.steps) == (None, "other", 12)
    assert first.events["goals"][0]["met"] is False
    assert len(first.refine_ms) == 3 and len(first.control_ms) == 12
    assert 0.0 < first.smoothness["path_length"] < 0.5
    assert first.smoothness == second.smoothness


def test_the_other_goal_is_watched_where_the_scene_can_tell():
    tasks = load_tasks("libero_goal")
    swapped = run_trial(job("libero_goal", instructed_by=tasks[1]))
    assert swapped.error is None
    assert swapped.goal_elsewhere is False
    sauce = next(task for task in load_tasks("libero_object") if "bbq" in task.name)
    elsewhere = job("libero_object", instructed_by=sauce)
    assert run_trial(elsewhere).goal_elsewhere is None, "there is no such thing in this scene"


def test_instructions_are_permuted_where_a_scene_can_tell():
    def lent(suite: str) -> dict[int, list[list[str]] | None]:
        tasks = load_tasks(suite)
        return {
            index: goal_here(tasks[index], other)
            for index, other in permuted(tasks, LIBERO.tells).items()
        }

    assert lent("libero_goal")[0] == [["on", "akita_black_bowl_1", "flat_stove_1_cook_region"]]
    assert len(lent("libero_goal")) == len(lent("libero_object")) == 10
    # All of them ask for the first bowl: here that is the second one, where the other's first was.
    other_bowl = [["on", "akita_black_bowl_2", "plate_1"]]
    assert lent("libero_spatial") == dict.fromkeys(range(10), other_bowl)
    assert sorted(lent("libero_10")) == [0, 1, 7], "only these share a living room"


def test_the_object_of_a_task_is_moved_where_nothing_is_in_the_way():
    from libra_vla.simulation.libero.disturbances import DEEPEST, _overlap, move_object
    from libra_vla.simulation.libero.environment import LiberoEnv

    env = LiberoEnv(load_tasks("libero_goal")[1], render=False)
    env.reset(seed=3)
    name = move_object(env, 0.0, np.random.default_rng(0))
    scene = env.robosuite_env
    body = scene.obj_body_id[name]
    before = np.array(scene.sim.data.xpos[body])
    for seed in range(4):
        env.reset(seed=3)
        assert move_object(env, 0.05, np.random.default_rng(seed)) == name
        env.step(np.zeros(7))
        moved = np.array(scene.sim.data.xpos[body]) - before
        assert np.linalg.norm(moved[:2]) == pytest.approx(0.05, abs=0.005)
        assert abs(moved[2]) < 0.01 and _overlap(scene.sim, body) <= DEEPEST + 0.001
    env.close()
