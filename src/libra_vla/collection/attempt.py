"""One attempt at a demonstration, as a worker process makes it."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from libra_vla.collection.config import CollectConfig
from libra_vla.collection.disturbance import Disturbance, draw_disturbance, draw_shoves
from libra_vla.collection.fumble import fumble
from libra_vla.collection.handover import drive
from libra_vla.data.lerobot import ABSENT, ASKED, DRAWN_EVERY, SHOVED, VIEWS
from libra_vla.data.writer import Clip, encode
from libra_vla.evaluation.policies import LoadPolicy, load_policy
from libra_vla.simulation.benchmark import (
    Benchmark,
    Environment,
    Expert,
    Places,
    Task,
    keep_environment,
)


@dataclass(frozen=True)
class Attempt:
    """One try at a demonstration; `folder` is where the worker leaves its videos."""

    benchmark: Benchmark
    config: CollectConfig
    task: Task
    number: int
    folder: Path
    load_policy: LoadPolicy = load_policy


@dataclass(frozen=True)
class Demonstration:
    """What a worker brings back.

    Attributes:
        success: whether the task was really finished: released, at rest, hand retreated.
        videos: one per camera, none after a failure.
        states, actions: [n, S] and [n, D]; actions are the expert's, without noise.
        noise: standard deviation of what was added to the executed actions.
        extra: what else is to be remembered of the episode, by column; see `demonstrate`.
        places: [n, P, 3], where they are told; see `libra_vla.data.lerobot.PLACES`.
    """

    success: bool
    videos: dict[str, Clip]
    states: np.ndarray
    actions: np.ndarray
    noise: float
    extra: dict[str, Any] = field(default_factory=dict)
    places: np.ndarray | None = None


@dataclass
class Recording:
    """Frames by camera, states and clean actions, one of each per control step.

    Attributes:
        shoved: when the hand was shoved, as (first, last + 1) control step.
        places: where things were, where that is told.
    """

    frames: dict[str, list[np.ndarray]]
    states: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    shoved: list[tuple[int, int]] = field(default_factory=list)
    places: list[Places] = field(default_factory=list)


Run = Callable[[Attempt], Demonstration]


def demonstrate(attempt: Attempt) -> Demonstration:
    """Lets the expert try once.

    The expert plans from the state that it finds, whoever brought that about; what came before is
    not recorded. The episode remembers `hand_over`, the control steps that a policy had driven
    until then (0: none), where there is a policy, `fumbled`, those of a grasp or placement that
    missed before it (0: none), where there are such, and `disturbed_at`, the step at which a
    disturbance began (0: before the expert looked; -1: never), where there are disturbances. Where
    pictures repeat, `drawn_every` says how often a new one comes; where there are shoves, `shoved`
    says when.
    """
    config, benchmark = attempt.config, attempt.benchmark
    env, rng = _prepare(attempt)
    seed, level = int(rng.integers(2**31)), rng.uniform(0.0, config.noise)
    expert_seed = int(rng.integers(2**31))
    extra = _begin(attempt, env, rng, seed=seed, expert_seed=expert_seed, noise=level)
    disturbance, shoves = None, []
    if not extra.get("fumbled") and config.recovery and rng.random() < config.recovery:
        disturbance = draw_disturbance(rng, benchmark.convention, attempt.task.step_budget)
    if config.shoves and rng.random() < config.shoves:
        shoves = draw_shoves(rng, benchmark.convention, config.max_steps)
    env.cameras = benchmark.cameras
    expert = benchmark.make_expert(env, seed=expert_seed)
    whereabouts = None
    if config.places:
        assert benchmark.whereabouts is not None and benchmark.asked is not None
        whereabouts = benchmark.whereabouts(env)
        extra[ASKED] = " ".join(benchmark.asked(attempt.task))
        extra |= _views(benchmark, env)
    recording = record(
        env,
        expert,
        rng=rng,
        noise=level,
        max_steps=config.max_steps,
        disturbance=disturbance,
        shoves=shoves,
        draw_every=config.draw_every,
        whereabouts=whereabouts,
    )
    if config.shoves:
        extra[SHOVED] = " ".join(f"{start}:{stop}" for start, stop in recording.shoved)
    if config.draw_every > 1:
        extra[DRAWN_EVERY] = config.draw_every
    if config.recovery:
        begun = disturbance is not None and disturbance.start < len(recording.actions)
        extra["disturbed_at"] = disturbance.start if disturbance and begun else -1
    success = bool(recording.actions and expert.done and expert.succeeded)
    videos = _films(attempt, recording.frames, drawn_every=config.draw_every) if success else {}
    states, actions = np.array(recording.states), np.array(recording.actions)
    places = _table(benchmark, recording.places) if recording.places else None
    return Demonstration(success, videos, states, actions, level, extra, places)


def look_around(attempt: Attempt) -> Demonstration:
    """Takes stills of one scene, one frame each, with actions of 0: nothing moves."""
    config, benchmark = attempt.config, attempt.benchmark
    assert benchmark.stills is not None
    env, rng = _prepare(attempt)
    env.reset(seed=int(rng.integers(2**31)), spread=config.spread)
    env.cameras = benchmark.cameras
    views = _views(benchmark, env)
    stills = benchmark.stills(env, config.stills, rng)
    frames = {camera: [s.observation.images[camera] for s in stills] for camera in env.cameras}
    return Demonstration(
        success=bool(stills),
        videos=_films(attempt, frames) if stills else {},
        states=np.array([still.observation.state for still in stills]),
        actions=np.zeros((len(stills), benchmark.convention.size)),
        noise=0.0,
        extra={ASKED: " ".join(stills[0].asked)} | views if stills else {},
        places=_table(benchmark, [still.places for still in stills]),
    )


def _views(benchmark: Benchmark, env: Environment) -> dict[str, str]:
    """How the cameras see, as a column of the episode, where that is known."""
    if benchmark.views is None:
        return {}
    views = benchmark.views(env)
    return {VIEWS: json.dumps({camera: view.to_json() for camera, view in views.items()})}


def _table(benchmark: Benchmark, told: Sequence[Places]) -> np.ndarray:
    """Places as a dataset holds them, [n, P, 3]."""
    names = benchmark.place_names()
    return np.array([[places.get(name, ABSENT) for name in names] for places in told])


def _prepare(attempt: Attempt) -> tuple[Environment, np.random.Generator]:
    """The environment of an attempt's task, and the generator that everything is drawn from."""
    config, task = attempt.config, attempt.task
    env = keep_environment(
        attempt.benchmark, task, image_size=config.image_size, meshes=config.meshes
    )
    key = [config.seed, zlib.crc32(config.suite.encode()), task.index, attempt.number]
    return env, np.random.default_rng(key)


def _begin(
    attempt: Attempt,
    env: Environment,
    rng: np.random.Generator,
    *,
    seed: int,
    expert_seed: int,
    noise: float,
) -> dict[str, Any]:
    """Starts an episode, and lets a policy drive or the expert fumble, if they are to.

    Returns:
        The columns `hand_over` and `fumbled` of the episode, as far as they apply.
    """
    config, benchmark = attempt.config, attempt.benchmark
    if config.policy is not None:
        return {"hand_over": _hand_over(attempt, env, seed, rng)}
    env.reset(seed=seed, spread=config.spread)
    if not config.fumble:
        return {}
    fumbled = 0
    if rng.random() < config.fumble:
        clumsy = benchmark.make_expert(env, seed=expert_seed)
        fumbled = fumble(env, clumsy, rng=rng, noise=noise, max_steps=config.max_steps)
        if not fumbled:
            env.reset(seed=seed, spread=config.spread)
    return {"fumbled": fumbled}


def _films(
    attempt: Attempt, frames: Mapping[str, Sequence[np.ndarray]], *, drawn_every: int = 1
) -> dict[str, Clip]:
    """Encodes what the cameras saw, one file per camera, in the attempt's folder."""
    films = {}
    for camera, images in frames.items():
        films[camera] = encode(
            np.stack(images),
            attempt.folder / f"{attempt.task.index}-{attempt.number}-{camera}.mp4",
            fps=attempt.benchmark.convention.rate_hz,
            drawn_every=drawn_every,
        )
    return films


def _hand_over(attempt: Attempt, env: Environment, seed: int, rng: np.random.Generator) -> int:
    """Starts an episode and lets the policy drive for a while; returns for how many steps."""
    config = attempt.config
    assert config.policy is not None
    if rng.random() < config.beta:
        env.reset(seed=seed, spread=config.spread)
        return 0
    return drive(
        env,
        attempt.load_policy,
        config.policy,
        end_effector=attempt.benchmark.end_effector,
        budget=attempt.task.step_budget,
        seed=seed,
        spread=config.spread,
        rng=rng,
        pass_over=config.pass_over,
    )


def record(
    env: Environment,
    expert: Expert,
    *,
    rng: np.random.Generator,
    noise: float,
    max_steps: int,
    disturbance: Disturbance | None = None,
    shoves: Sequence[Disturbance] = (),
    draw_every: int = 1,
    whereabouts: Callable[[], Places] | None = None,
) -> Recording:
    """Lets the expert finish what it finds.

    Args:
        rng: of the noise.
        noise: its standard deviation; the gripper has none.
        disturbance: what is carried out instead of the expert's actions for a while; one that
            starts at step 0 is over before the expert looks, and is not recorded.
        shoves: what is carried out instead in between, in order, and not to be learned from.
        draw_every: control steps from one new picture to the next; see `CollectConfig`.
        whereabouts: tells where things are, which is then recorded.
    """
    if disturbance is not None and disturbance.start == 0:
        for moment in range(len(disturbance.actions)):
            env.step(disturbance.at(moment))
        disturbance = None
    expert.reset()
    moving = np.arange(env.convention.size) != env.convention.gripper
    cameras, recording = env.cameras, Recording({camera: [] for camera in env.cameras})
    while not expert.done and (step := len(recording.actions)) < max_steps:
        shove = next((shove for shove in shoves if step in shove.steps), None)
        calm_since = max((s.steps.stop for s in shoves if s.steps.stop <= step), default=0)
        env.cameras = cameras if not shove and (step - calm_since) % draw_every == 0 else ()
        seen, action = env.observe(), expert.act()
        for camera, images in recording.frames.items():
            images.append(seen.images[camera] if env.cameras else images[-1])
        recording.states.append(seen.state)
        if whereabouts is not None:
            recording.places.append(whereabouts())
        disturbed = action.copy()
        disturbed[moving] += noise * rng.standard_normal(moving.sum())
        if disturbance is not None:
            disturbed = disturbance.at(step, instead_of=disturbed)
        if shove is not None:
            disturbed = shove.at(step, instead_of=disturbed)
        recording.actions.append(action)
        env.step(np.clip(disturbed, -1.0, 1.0))
    env.cameras = cameras
    ended = len(recording.actions)
    recording.shoved = [
        (shove.start, min(shove.steps.stop, ended)) for shove in shoves if shove.start < ended
    ]
    return recording
