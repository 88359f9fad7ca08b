"""Meta-World 3's tasks as environments, and its scripted experts.

Departures from the package's own loop, each the same for collecting and for evaluating:

- An action is held for two simulator steps, so that 40 actions stand for a second instead of 80:
  episodes have half as many frames, and the experts do nearly as well (docs/results/libero.md).
- Frames are drawn without shadows, reflections and multisampling, with which they take ten times
  as long on a CPU. A policy sees two cameras, one in a corner and one at the wrist.
- After a reset, the package draws the goal, and in some tasks the object, where they were before
  it, and tells its experts so. Here they are brought up to date.
"""

import sys
import warnings
from typing import Any

import numpy as np

from libra_vla.action_space import ActionConvention
from libra_vla.errors import LibraError, unknown
from libra_vla.observation import Observation
from libra_vla.simulation.benchmark import Task
from libra_vla.simulation.metaworld.tasks import ACTION_REPEAT, FIRST_OFFICIAL_SEED
from libra_vla.simulation.rendering import choose_backend, drawing_only, visible_geoms

METAWORLD_CONVENTION = ActionConvention(
    names=("dx", "dy", "dz", "gripper"),
    units=("0.02 m", "0.02 m", "0.02 m", "1"),
    representation="end-effector position delta in the world frame (Meta-World mocap)",
    rate_hz=80.0 / ACTION_REPEAT,
    gripper=3,
    gripper_open=-1.0,
    gripper_closed=1.0,
)
CAMERAS = {"corner": "corner4", "wrist": "gripperPOV"}
"""Public camera name -> MuJoCo's."""
CORNER_FOVY = 46.0
"""Degrees; the package's 60 make the objects too small to see in 64 pixels."""
STATE_NAMES = ("hand_x", "hand_y", "hand_z", "gripper_opening")
AFTERWARDS = 5
"""Control steps for which a demonstration goes on after the task is done."""


class MetaworldEnv:
    """One task of Meta-World.

    Args:
        task: of `metaworld_tasks.load_tasks`.
        image_size: side of the square frames, pixels.
        meshes: "stock"; there are no others.
        cameras: which of `CAMERAS` an observation holds.
        render: False builds no renderer; observations then hold no images.

    Attributes:
        task: as given.
        convention: what actions mean.
        steps_taken: control steps since the reset.
        solved: those of them, counted from 1, within which the benchmark's own check held.
        privileged: Meta-World's own observation [39], which holds objects and goal: for experts.
        metaworld_env: the environment underneath.
    """

    convention = METAWORLD_CONVENTION

    def __init__(
        self,
        task: Task,
        *,
        image_size: int = 128,
        meshes: str = "stock",
        cameras: tuple[str, ...] = tuple(CAMERAS),
        render: bool = True,
    ) -> None:
        self.task, self.cameras = task, cameras
        self.steps_taken, self.solved = 0, list[int]()
        self.privileged = np.zeros(39)
        choose_backend(required=render)
        self.metaworld_env = _build(task)
        self._renderer = _Renderer(self.metaworld_env, image_size) if render else None

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras that `observe` renders; may be changed at any time.

        Raises:
            LibraError: set to an unknown one.
        """
        return self._cameras

    @cameras.setter
    def cameras(self, cameras: tuple[str, ...]) -> None:
        for camera in cameras:
            if camera not in CAMERAS:
                raise unknown("camera", camera, CAMERAS)
        self._cameras = tuple(cameras)

    def reset(
        self, *, seed: int, init_state: np.ndarray | None = None, spread: float = 0.0
    ) -> None:
        """Starts an episode.

        Args:
            seed: of the scene; brought below those of the evaluation's states.
            init_state: one row of `official_states`, in place of the seed.
            spread: must be 0.

        Raises:
            LibraError: the state is of another benchmark, or a spread is asked for.
        """
        import mujoco

        if spread:
            raise LibraError("Meta-World cannot spread its objects: leave out spread")
        env = self.metaworld_env
        env.seed(scene_seed(seed, init_state))
        env.reset()
        mujoco.mj_forward(env.model, env.data)
        env._prev_obs = env._get_curr_obs_combined_no_goal()
        self.privileged = env._get_obs()
        self.steps_taken, self.solved = 0, []

    def step(self, action: np.ndarray) -> bool:
        """Carries out one raw action [4] for one control step (25 ms); beyond [-1, 1] is clipped.

        Returns:
            Whether the benchmark's own check held at any moment of it.

        Raises:
            LibraError: wrong shape, NaN or infinity.
        """
        action = np.clip(self.convention.checked(action), -1.0, 1.0)
        success = False
        for _ in range(ACTION_REPEAT):
            self.privileged, _, _, _, info = self.metaworld_env.step(action)
            success |= bool(info["success"])
        self.steps_taken += 1
        if success:
            self.solved.append(self.steps_taken)
        return success

    def observe(self) -> Observation:
        """Renders and returns the present moment.

        Images are uint8 [image_size, image_size, 3], upright; the state is float32 [4]: the hand's
        position (m) and how far the gripper is open, 0 to 1.
        """
        images = {}
        if self._renderer is not None:
            images = {name: self._renderer.render(CAMERAS[name]) for name in self.cameras}
        state = self.privileged[: len(STATE_NAMES)].astype(np.float32)
        return Observation(images, state, self.task.instruction, self.steps_taken)

    def close(self) -> None:
        """Frees the renderer and the simulation."""
        if self._renderer is not None:
            self._renderer.close()
        self.metaworld_env.close()


class MetaworldExpert:
    """Meta-World's own policy of a task.

    Args:
        env: the environment that is going to be stepped, by whomever.
        seed: kept for callers' bookkeeping; nothing here is random.

    Attributes:
        done: the task was done a moment ago, or a step budget is used up.
        succeeded: since `reset`, the benchmark's check held at some step, which is all it asks.
    """

    def __init__(self, env: MetaworldEnv, *, seed: int = 0) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        self.env, self.seed = env, seed
        self._policy = ENV_POLICY_MAP[f"{env.task.name}-v3"]()
        self.reset()

    def reset(self) -> None:
        """Begins, wherever the scene is: it acts on what it sees, and remembers nothing."""
        self._began = self.env.steps_taken

    @property
    def succeeded(self) -> bool:
        return self._solved_at() is not None

    @property
    def done(self) -> bool:
        last = self._began + self.env.task.step_budget
        if (solved_at := self._solved_at()) is not None:
            last = min(last, solved_at + AFTERWARDS)
        return self.env.steps_taken >= last

    def _solved_at(self) -> int | None:
        return next((step for step in self.env.solved if step > self._began), None)

    def act(self) -> np.ndarray:
        """Returns the clean action [4] for the present state, clipped to [-1, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it is going to be clipped
            action = self._policy.get_action(self.env.privileged)
        return np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)


def scene_seed(seed: int, init_state: np.ndarray | None = None) -> int:
    """Returns what a scene is drawn from: the seed of an official state, or one below all of them.

    Raises:
        LibraError: the state is none of Meta-World's.
    """
    if init_state is None:
        return seed % FIRST_OFFICIAL_SEED
    if np.shape(init_state) != (1,) or init_state[0] < FIRST_OFFICIAL_SEED:
        raise LibraError(
            f"initial state has shape {list(np.shape(init_state))}, but Meta-World's are seeds "
            f"from {FIRST_OFFICIAL_SEED}: it belongs to another benchmark"
        )
    return int(init_state[0])


def supports(task: Task) -> bool:
    """Tells whether there is an expert for a task: there is one for each."""
    return True


def end_effector(env: MetaworldEnv) -> np.ndarray:
    """Returns the present position of the hand, float64 [3], m."""
    return np.array(env.metaworld_env.get_endeff_pos())


def watch_goal(env: MetaworldEnv, other: Task) -> None:
    """Tells nothing: a scene knows the goal of its own task alone."""


class _Renderer:
    """Draws the cameras of one scene."""

    def __init__(self, env: Any, size: int) -> None:
        import mujoco

        self.model, self.data = env.model, env.data
        self.model.vis.quality.offsamples = 0
        offscreen = self.model.vis.global_
        offscreen.offwidth = max(offscreen.offwidth, size)
        offscreen.offheight = max(offscreen.offheight, size)
        corner = self.model.camera(CAMERAS["corner"])
        corner.fovy = CORNER_FOVY
        upright = np.empty(4)  # it comes upside down: half a turn about the line of sight
        mujoco.mju_mulQuat(upright, corner.quat, np.array([0.0, 0.0, 0.0, 1.0]))
        corner.quat = upright
        mujoco.mj_forward(self.model, self.data)
        self.renderer = mujoco.Renderer(self.model, size, size)
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False

    def render(self, camera: str) -> np.ndarray:
        """Returns uint8 [size, size, 3], upright."""
        visible = visible_geoms(self.model, self.data, self.model.camera(camera).id)
        with drawing_only(self.model, visible):
            self.renderer.update_scene(self.data, camera=camera)
        return self.renderer.render()

    def close(self) -> None:
        self.renderer.close()


def _build(task: Task) -> Any:
    """Builds Meta-World's environment, with the goal observable, as its experts need it."""
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    except ImportError as error:
        raise LibraError(
            f"Meta-World cannot be imported ({error}): pip install 'libra-vla[metaworld]'"
        ) from error

    env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task.name}-v3-goal-observable"]()
    # Scenes follow `env.seed`; the seed that its `reset` takes is ignored.
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    env.max_path_length = sys.maxsize  # whoever steps it counts
    return env
