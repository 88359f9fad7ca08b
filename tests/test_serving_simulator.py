"""openpi's LIBERO client, on LIBERO's own wrapper: the server acts as our executor would."""

import math

import numpy as np
import pytest
import torch
from serving_tools import serving

from libra_vla.action_space import ActionSpace
from libra_vla.config import load_preset
from libra_vla.execution.executor import Executor
from libra_vla.observation import Observation, ObservationSpec
from libra_vla.policies import LibraPolicy
from libra_vla.policies.batched import BatchedPolicy
from libra_vla.policies.policy import StateStatistics
from libra_vla.simulation.libero.environment import LIBERO_CONVENTION, LiberoEnv, stock_environment
from libra_vla.simulation.libero.suites import load_tasks, official_states

pytestmark = pytest.mark.simulator
SETTLE, REPLAN, SIDE, SEED = 10, 5, 224, 7


def untrained() -> LibraPolicy:
    torch.manual_seed(0)
    return LibraPolicy(
        config=load_preset("tiny"),
        action_space=ActionSpace(LIBERO_CONVENTION, (11,) * 6 + (2,), (-1.0,) * 7, (1.0,) * 7),
        observation_spec=ObservationSpec(("agentview", "wrist"), 8),
        state_statistics=StateStatistics((0.0,) * 8, (1.0,) * 8),
    )


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """openpi's `_quat2axisangle` (examples/libero/main.py), xyzw."""
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    length = math.sqrt(1.0 - w * w)
    if math.isclose(length, 0.0):
        return np.zeros(3)
    return quaternion[:3] * 2.0 * math.acos(w) / length


def openpi_episode(client, state: np.ndarray, suite: str, index: int, steps: int) -> np.ndarray:
    """The loop of openpi's examples/libero/main.py; returns the simulator's last state."""
    from openpi_client import image_tools

    task = load_tasks(suite, [index])[0]
    env = stock_environment(task, 256)
    np.random.seed(SEED)  # noqa: NPY002
    env.reset()
    seen = env.set_init_state(state)
    for _ in range(SETTLE):
        seen, *_ = env.step([0.0] * 6 + [-1.0])
    plan = []
    for _ in range(steps):
        images = {
            key: image_tools.convert_to_uint8(
                image_tools.resize_with_pad(np.ascontiguousarray(seen[raw][::-1, ::-1]), SIDE, SIDE)
            )
            for key, raw in (
                ("observation/image", "agentview_image"),
                ("observation/wrist_image", "robot0_eye_in_hand_image"),
            )
        }
        if not plan:
            proprioception = (
                seen["robot0_eef_pos"],
                axis_angle(seen["robot0_eef_quat"]),
                seen["robot0_gripper_qpos"],
            )
            element = {"observation/state": np.concatenate(proprioception)} | images
            plan = list(client.infer(element | {"prompt": task.instruction})["actions"][:REPLAN])
        seen, *_ = env.step(plan.pop(0).tolist())
    last = env.get_sim_state()
    env.close()
    return last


def local_episode(policy: LibraPolicy, state, suite: str, index: int, steps: int) -> np.ndarray:
    """The same by our own executor, given pictures of the same size."""
    from openpi_client import image_tools

    env = LiberoEnv(load_tasks(suite, [index])[0])
    env.reset(seed=SEED, init_state=state)
    executor = Executor(policy)
    executor.reset(int(np.random.SeedSequence([0, 0]).generate_state(1)[0]))

    def observe() -> Observation:
        seen = env.observe()
        images = {c: image_tools.resize_with_pad(i, SIDE, SIDE) for c, i in seen.images.items()}
        return Observation(images, seen.state, seen.instruction)

    for _ in range(steps):
        env.step(executor.act(observe))
    last = env.robosuite_env.sim.get_state().flatten()
    env.close()
    return last


@pytest.mark.parametrize("steps", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_openpi_client_on_libero(steps):
    openpi = pytest.importorskip("openpi_client.websocket_client_policy")
    pytest.importorskip("libero")
    suite, index, policy = "libero_goal", 1, untrained()
    state = official_states(load_tasks(suite, [index])[0])[0]
    with serving(BatchedPolicy(policy)) as server:
        client = openpi.WebsocketClientPolicy("127.0.0.1", server.port)
        served = openpi_episode(client, state, suite, index, steps)
        client._ws.close()
        assert server.metrics.count("answered") == steps // REPLAN
    local = local_episode(policy, state, suite, index, steps)
    moved = abs(served - state).max()
    # Proprioception is float64 there and float32 here; contacts amplify the last bit over time.
    np.testing.assert_allclose(served, local, atol=1e-3 if steps < 50 else 0.1)
    assert moved > 0.01
