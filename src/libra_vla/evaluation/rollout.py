"""One episode: a policy in an environment, recorded."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import numpy as np

from libra_vla.errors import LibraError
from libra_vla.execution.executor import Executor
from libra_vla.execution.trace import ChunkRecord
from libra_vla.observation import Observation
from libra_vla.simulation.benchmark import Environment, Witness
from libra_vla.simulation.events import Events

log = logging.getLogger(__name__)


@dataclass
class Episode:
    """What happened.

    Attributes:
        success: the benchmark's own check said so at some step; the first one ends the episode.
        steps: control steps carried out.
        error: the exception that ended it, in one line; such an episode is neither a success nor
            a failure.
        goal_elsewhere: whether the watched goal (of another task) was reached at some step; None
            when none was watched, or it held from the start.
        events: what a witness saw; None without one, or after a success.
        positions: end-effector positions [3], m, one before each step and one after the last.
        states: proprioception float32 [S] the policy saw, one per chunk.
        frames: the first camera's image at each chunk and at the end, uint8 [height, width, 3];
            empty unless asked for.
        chunks, control_ms: the executor's trace.
        overrun_steps: control steps that began late, where the clock sets the pace.
    """

    success: bool = False
    steps: int = 0
    error: str | None = None
    goal_elsewhere: bool | None = None
    events: Events | None = None
    positions: list[np.ndarray] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    chunks: list[ChunkRecord] = field(default_factory=list)
    control_ms: list[float] = field(default_factory=list)
    overrun_steps: int = 0


def rollout(
    env: Environment,
    executor: Executor,
    *,
    end_effector: Callable[[], np.ndarray],
    seed: int,
    step_budget: int,
    init_state: np.ndarray | None = None,
    spread: float = 0.0,
    instruction: str | None = None,
    watch: Callable[[], bool] | None = None,
    witness: Callable[[], Witness] | None = None,
    record_frames: bool = False,
    events: Mapping[int, Callable[[], object]] | None = None,
    period_s: float | None = None,
) -> Episode:
    """Runs one episode.

    Args:
        end_effector: returns the end effector's present position [3], m; renders nothing.
        seed: of the environment's own randomness (fixtures) and of the policy's noise.
        step_budget: control steps after settling.
        init_state: the simulator state to start from; None lets the environment draw one.
        spread: how far drawn object positions vary; see the environment.
        instruction: given to the policy instead of the task's own.
        watch: another goal to keep an eye on; whichever is reached first ends the episode.
        witness: called after the reset; what it returns watches the episode.
        record_frames: keep images for a video.
        events: control step -> what happens to the scene just before it.
        period_s: seconds per control step where the clock sets the pace; None: as fast as it goes.

    Raises:
        LibraError: the policy was trained for another robot or other cameras. Everything else
            that is raised is the episode's error.
    """
    policy = executor.policy
    policy.action_space.convention.require_equal(
        env.convention, mine="the policy", theirs="the environment"
    )
    episode, witnessed = Episode(), None
    eyes, pace = _Eyes(env, episode, instruction, record_frames), _Pace(period_s)
    with _errors_kept_in(episode):
        executor.reset(seed)
        env.reset(seed=seed, init_state=init_state, spread=spread)
        eyes.ahead = eyes.observe()
        witnessed = None if witness is None else witness()
        watch = None if watch is None or watch() else watch
        episode.goal_elsewhere = None if watch is None else False
    if episode.error is not None or eyes.ahead is None:
        return episode
    policy.observation_spec.check(eyes.ahead)
    with _errors_kept_in(episode):
        episode.positions.append(end_effector())
        while episode.steps < step_budget and not (episode.success or episode.goal_elsewhere):
            episode.overrun_steps += pace.wait()
            if happens := (events or {}).get(episode.steps):
                happens()
            action = executor.act(eyes.observe)
            if len(executor.trace) > len(episode.states):
                eyes.keep()
            episode.success = bool(env.step(action))
            episode.steps += 1
            episode.positions.append(end_effector())
            if witnessed is not None:
                witnessed.look()
            if watch is not None and not episode.success:
                episode.goal_elsewhere = watch()
        if witnessed is not None and not episode.success:
            episode.events = witnessed.events()
    with suppress(Exception):  # the outcome stands, with or without a last picture of it
        eyes.keep_frame(env.observe)
    episode.chunks, episode.control_ms = executor.trace, executor.control_ms
    return episode


@dataclass
class _Eyes:
    """Looks for the policy, and keeps one look per chunk: a plan may look at other moments."""

    env: Environment
    episode: Episode
    instruction: str | None
    record_frames: bool
    ahead: Observation | None = None
    latest: Observation | None = None

    def observe(self) -> Observation:
        """Returns the present moment; `ahead`, if that was taken ahead of time."""
        if self.ahead is not None:
            seen, self.ahead = self.ahead, None
            return seen
        seen = self.latest = self.env.observe()
        return seen if self.instruction is None else replace(seen, instruction=self.instruction)

    def keep(self) -> None:
        """Keeps the latest look: a chunk has begun with it."""
        seen = self.latest
        assert seen is not None
        self.keep_frame(lambda: seen)
        self.episode.states.append(np.asarray(seen.state))

    def keep_frame(self, look: Callable[[], Observation]) -> None:
        """Keeps an image, where images are kept."""
        if self.record_frames:
            self.episode.frames.extend(_frame(look()))


class _Pace:
    """Lets control steps begin a period apart; one that is late moves all that follow."""

    def __init__(self, period_s: float | None) -> None:
        self._period, self._due = period_s, 0.0

    def wait(self) -> bool:
        """Waits for the next step to be due; returns whether it is late."""
        if self._period is None:
            return False
        now, due = time.monotonic(), self._due
        time.sleep(max(0.0, due - now))
        self._due = max(now, due) + self._period
        return 0.0 < due < now


@contextmanager
def _errors_kept_in(episode: Episode) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.debug("an episode ended in an exception", exc_info=True)
        text = (str(error).splitlines() or [""])[0]
        episode.error = text if isinstance(error, LibraError) else f"{type(error).__name__}: {text}"
        episode.success = False


def _frame(seen: Observation) -> list[np.ndarray]:
    return list(seen.images.values())[:1]
