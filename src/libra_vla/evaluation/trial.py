"""One trial of an evaluation, as a worker process runs it."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from libra_vla.action_space import ActionConvention
from libra_vla.evaluation.failures import classify
from libra_vla.evaluation.policies import DescribedPolicy, LoadPolicy
from libra_vla.evaluation.rollout import Episode, rollout
from libra_vla.evaluation.smoothness import smoothness
from libra_vla.evaluation.timing import Timing
from libra_vla.evaluation.video import episode_files, write_video
from libra_vla.execution.config import ExecutionConfig
from libra_vla.execution.executor import Executor
from libra_vla.execution.process import ProcessPlanner
from libra_vla.execution.protocol import Policy
from libra_vla.execution.trace import ChunkRecord, trace_arrays
from libra_vla.files import atomic_file
from libra_vla.observation import Observation
from libra_vla.paraphrases import paraphrase
from libra_vla.simulation.benchmark import (
    Benchmark,
    Environment,
    Task,
    close_environment,
    keep_environment,
)


@dataclass(frozen=True)
class Job:
    """What a worker needs to run one trial.

    Attributes:
        load_policy: what loads `policy` on `device`.
        task, trial: which one; `trial` counts from 0 within its task.
        seed: of the scene's fixtures and of the policy's noise.
        init_state: official initial state, or None to draw one with `spread`.
        step_budget: control steps after settling.
        instructed_by: the task whose instruction the policy gets instead, or None.
        paraphrase: number of the wording that the policy gets instead, or None.
        record: folder for this trial's video and trace, or None.
        failures_only: record only a failure.
        explain: run a failure again in synchronous mode without delay.
        timing: how time passes.
        moved_object: control step and metres by which the task's object is moved, or None.
    """

    policy: Path
    device: str
    load_policy: LoadPolicy
    execution: ExecutionConfig
    benchmark: Benchmark
    task: Task
    trial: int
    seed: int
    init_state: np.ndarray | None
    spread: float
    step_budget: int
    image_size: int
    meshes: str
    instructed_by: Task | None = None
    paraphrase: int | None = None
    record: Path | None = None
    failures_only: bool = False
    explain: bool = False
    timing: Timing = field(default_factory=Timing)
    moved_object: tuple[int, float] | None = None

    @property
    def instruction(self) -> str:
        """What the policy is told.

        Raises:
            LibraError: there is no such paraphrase.
        """
        words = (self.instructed_by or self.task).instruction
        return words if self.paraphrase is None else paraphrase(words, self.paraphrase)


@dataclass(frozen=True)
class Trial:
    """The outcome of one trial: a line of `episodes.jsonl`.

    Attributes:
        task, trial, seed: as in `Job`.
        init_state: index of the official initial state; None if it was drawn.
        success, steps, error: as in `Episode`.
        failure: class of the failure at what the policy was told; None if it is none.
        phase: how far an actuation failure came.
        events: what happened in a failure, fields of `libra_vla.simulation.events.Events`.
        goal_elsewhere: whether the other task's goal was reached, where that can be told.
        closings: how often the robot was told to close its fingers: a second time for one object is
            a second try; None without a gripper, or after an error.
        smoothness: fields of `Smoothness`.
        plan_ms: one per chunk, None where no plan was made.
        refine_ms, control_ms: one per chunk and per control step.
        background_ms: one per plan that was made beside the control loop.
        runtime: what the executor did; see `libra_vla.execution.trace.summarise`.
        wall_s: seconds from the start of the trial to its end.
    """

    task: int
    trial: int
    seed: int
    init_state: int | None
    success: bool = False
    steps: int = 0
    error: str | None = None
    failure: str | None = None
    phase: str | None = None
    events: dict[str, Any] | None = None
    goal_elsewhere: bool | None = None
    closings: int | None = None
    smoothness: dict[str, float | None] | None = None
    plan_ms: list[float | None] = field(default_factory=list)
    refine_ms: list[float] = field(default_factory=list)
    control_ms: list[float] = field(default_factory=list)
    background_ms: list[float] = field(default_factory=list)
    runtime: dict[str, Any] | None = None
    wall_s: float = 0.0

    @property
    def key(self) -> tuple[int, int]:
        return self.task, self.trial

    @classmethod
    def of(cls, job: Job, **outcome: Any) -> "Trial":
        """The trial that `job` describes, with its outcome."""
        return cls(
            task=job.task.index,
            trial=job.trial,
            seed=job.seed,
            init_state=None if job.init_state is None else job.trial,
            **outcome,
        )


def run_trial(job: Job) -> Trial:
    """Runs one trial; the policy and the latest environment stay loaded for the next.

    Raises:
        LibraError: the input is wrong for every trial alike (policy, robot, cameras, disk).
    """
    began = time.perf_counter()
    policy = _policy(job.load_policy, job.policy, job.device)
    executor = _executor(job, policy)
    env = keep_environment(job.benchmark, job.task, image_size=job.image_size, meshes=job.meshes)
    env.cameras = policy.observation_spec.cameras  # only what this policy reads is rendered
    other = job.instructed_by
    with closing(executor):
        episode = rollout(
            env,
            executor,
            end_effector=lambda: job.benchmark.end_effector(env),
            seed=job.seed,
            init_state=job.init_state,
            spread=job.spread,
            step_budget=job.step_budget,
            instruction=job.instruction,
            watch=None if other is None else job.benchmark.watch_goal(env, other),
            witness=None
            if (witness := job.benchmark.witness) is None
            else lambda: witness(env, other or job.task),
            record_frames=job.record is not None,
            events=_events(job, env),
            period_s=1.0 / _rate(executor) if job.timing.paced else None,
        )
    failed = episode.error is None and not (episode.success or episode.goal_elsewhere)
    if job.record is not None and (failed or not job.failures_only):
        _save(
            episode,
            job.task,
            job.trial,
            job.record,
            frame_rate=_rate(executor) / _execute(executor),
            plans=[(p.step, p.arrived, p.kept) for p in executor.plans],
            halts=[(h.step, h.steps, h.starved) for h in executor.halts],
        )
    if episode.error is not None:
        close_environment()  # whatever broke may have left the simulator in no state to go on
    failure, phase = classify(episode.events) if failed else (None, None)
    if failed and job.explain and run_trial(_without_asynchrony(job)).success:
        failure, phase = "asynchrony-induced", None
    measured = smoothness(
        np.reshape(episode.positions, (-1, 3)), [c.step for c in episode.chunks], _rate(executor)
    )
    return Trial.of(
        job,
        success=episode.success,
        steps=episode.steps,
        error=episode.error,
        failure=failure,
        phase=phase,
        events=None if episode.events is None else _rounded(asdict(episode.events)),
        goal_elsewhere=episode.goal_elsewhere,
        closings=None
        if episode.error is not None
        else count_closings(episode.chunks, policy.action_space.convention),
        smoothness={k: _finite(v) for k, v in asdict(measured).items()},
        plan_ms=[None if c.plan_ms is None else round(c.plan_ms, 4) for c in episode.chunks],
        refine_ms=[round(c.refine_ms, 4) for c in episode.chunks],
        control_ms=[round(ms, 4) for ms in episode.control_ms],
        background_ms=[
            round(plan.ms, 4) for plan in executor.plans if job.execution.mode == "concurrent"
        ],
        runtime=executor.report() | {"overrun_steps": episode.overrun_steps},
        wall_s=round(time.perf_counter() - began, 3),
    )


def count_closings(chunks: Sequence[ChunkRecord], convention: ActionConvention) -> int | None:
    """How often the actions that were carried out went from opening to closing the gripper, one
    that closes from the start counted in; None without a gripper."""
    if (gripper := convention.gripper) is None:
        return None
    told = np.array([a for c in chunks for a in c.actions[: c.executed, gripper]])
    middle = (convention.gripper_open + convention.gripper_closed) / 2
    closed = (told > middle) == (convention.gripper_closed > middle)
    return int(np.sum(np.diff(closed.astype(int), prepend=0) == 1))


def _without_asynchrony(job: Job) -> Job:
    """The same trial with a fresh plan for every chunk, in a world that waits for it."""
    execution = replace(job.execution, mode="synchronous")
    return replace(job, execution=execution, timing=Timing(), record=None, explain=False)


def _executor(job: Job, policy: DescribedPolicy) -> Executor:
    mode, timing = job.execution.mode, job.timing
    source = job.load_policy, job.policy, job.device
    rate = policy.action_space.convention.rate_hz
    return Executor(
        policy,
        job.execution,
        planner=timing.background(policy, lambda: _process(*source)),
        latency=timing.latency(mode, rate),
    )


def _events(job: Job, env: Environment) -> dict[int, Callable[[], object]]:
    """What happens to the scene at which control step."""
    if job.moved_object is None:
        return {}
    (step, metres), move = job.moved_object, job.benchmark.move_object
    assert move is not None, "the request was checked"
    rng = np.random.default_rng(job.seed)
    return {step: lambda: move(env, metres, rng)}


def _rate(executor: Executor) -> float:
    return executor.policy.action_space.convention.rate_hz


def _execute(executor: Executor) -> int:
    return executor.config.execute or executor.policy.chunk


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rounded(value: Any) -> Any:
    """Nested values with floats to a tenth of a millimetre; what is infinite is None."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value if not isinstance(value, float) else _finite(round(value, 4))


@cache
def _policy(load_policy: LoadPolicy, folder: Path, device: str) -> DescribedPolicy:
    policy = load_policy(folder, device)
    _warm_up(policy)
    return policy


def _warm_up(policy: Policy) -> None:
    """Plans and refines once on nothing: first calls compile and allocate, and are no latency."""
    nothing = _nothing(policy)
    policy.refine(nothing, policy.plan(nothing).coarse[: policy.chunk])


def _nothing(policy: Policy) -> Observation:
    spec = policy.observation_spec
    black = {camera: np.zeros((256, 256, 3), dtype=np.uint8) for camera in spec.cameras}
    return Observation(black, np.zeros(spec.state_size, dtype=np.float32), "wait")


@cache
def _process(load_policy: LoadPolicy, folder: Path, device: str) -> ProcessPlanner:
    """A second copy of the policy, warmed up as well; it ends with this worker."""
    planner = ProcessPlanner(load_policy, [str(folder), device])
    planner.plan(_nothing(_policy(load_policy, folder, device)))
    return planner


def _save(
    episode: Episode,
    task: Task,
    trial: int,
    folder: Path,
    *,
    frame_rate: float,
    plans: list[tuple[int, int, int]],
    halts: list[tuple[int, int, bool]],
) -> None:
    """Writes the video (frames as the policy saw them, in real time) and the trace."""
    film, trace = episode_files(folder, task.index, trial)
    if episode.frames:
        write_video(film, episode.frames, fps=frame_rate)
    if episode.chunks:
        arrays = trace_arrays(episode.chunks)
        arrays["positions"] = np.array(episode.positions)
        arrays["states"] = np.array(episode.states)
        arrays["control_ms"] = np.array(episode.control_ms)
        arrays["plans"] = np.array(plans, dtype=np.int64).reshape(-1, 3)
        arrays["halts"] = np.array(halts, dtype=np.int64).reshape(-1, 3)
        with atomic_file(trace) as partial:
            np.savez_compressed(partial, **arrays)  # pyright: ignore[reportArgumentType]
