"""One episode as it was executed: intents, actions and what the camera saw."""

import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from libra_vla.action_space import ActionSpace
from libra_vla.data.video import read_video
from libra_vla.errors import LibraError
from libra_vla.evaluation.video import episode_files
from libra_vla.files import read_json

FIELDS = ("step", "plan_step", "coarse", "confidence", "actions", "executed")
"""Arrays of `libra_vla.execution.trace.trace_arrays` that are drawn."""

NO_FRAMES = np.zeros((0, 1, 1, 3), np.uint8)


@dataclass(frozen=True)
class IntentBox:
    """An interval of one action dimension that the planner asked for, over some control steps.

    Attributes:
        start, end: control steps, the second one exclusive.
        low, high: edges of the bin, normalised.
        confidence: the planner's probability of this bin, averaged over the steps.
        coarse: index of the bin.
    """

    start: int
    end: int
    low: float
    high: float
    confidence: float
    coarse: int


@dataclass(frozen=True)
class EpisodeTrace:
    """What an executor did in one episode: C chunks of H actions in D dimensions.

    Attributes:
        space: of the policy; says what bins and dimensions mean.
        instruction: what the robot was told.
        success: whether it did it.
        step: int [C], control step of each chunk's first action.
        plan_step: int [C], control step of the observation behind each chunk's intents.
        coarse: int [C, H, D].
        confidence: float [C, H, D], in [0, 1].
        actions: float [C, H, D], raw.
        executed: int [C], how many actions of each chunk were carried out.
        frames: uint8 [K, h, w, 3], upright; K may be 0.
        frame_steps: int [K], the control step of each frame.
    """

    space: ActionSpace
    instruction: str
    success: bool
    step: np.ndarray
    plan_step: np.ndarray
    coarse: np.ndarray
    confidence: np.ndarray
    actions: np.ndarray
    executed: np.ndarray
    frames: np.ndarray
    frame_steps: np.ndarray

    @property
    def length(self) -> int:
        """T, the number of control steps."""
        return int(self.step[-1] + self.executed[-1]) if len(self.step) else 0

    @property
    def times(self) -> np.ndarray:
        """Control step of every executed action, int [T]."""
        return np.concatenate(
            [np.arange(s, s + n) for s, n in zip(self.step, self.executed, strict=True)]
        )

    @property
    def executed_actions(self) -> np.ndarray:
        """Executed actions, normalised, float [T, D]."""
        return self.space.normalise(self._executed(self.actions))

    @property
    def executed_intents(self) -> np.ndarray:
        """The intent behind every executed action, int [T, D]."""
        return self._executed(self.coarse)

    def _executed(self, values: np.ndarray) -> np.ndarray:
        return np.concatenate([v[:n] for v, n in zip(values, self.executed, strict=True)])

    @property
    def new_plans(self) -> np.ndarray:
        """Whether each chunk is the first of a new plan, bool [C]."""
        return np.diff(self.plan_step, prepend=-1) != 0

    def boxes(self, dimension: int) -> list[IntentBox]:
        """Returns the intents of one dimension, neighbours of a chunk with the same bin as one."""
        bins, found = self.space.bins[dimension], []
        for chunk, (start, executed) in enumerate(zip(self.step, self.executed, strict=True)):
            coarse = self.coarse[chunk, :executed, dimension]
            sure = self.confidence[chunk, :executed, dimension]
            edges = [0, *(np.flatnonzero(np.diff(coarse)) + 1), len(coarse)]
            for a, b in pairwise(edges):
                if a < b:
                    c = int(coarse[a])
                    low, high = 2.0 * c / bins - 1.0, 2.0 * (c + 1) / bins - 1.0
                    box = IntentBox(
                        int(start + a), int(start + b), low, high, float(sure[a:b].mean()), c
                    )
                    found.append(box)
        return found

    def inside(self) -> np.ndarray:
        """Share of executed actions that lie in the bin of their intent, float [D]."""
        return (self.space.encode(self.executed_actions) == self.executed_intents).mean(axis=0)


def load_trace(folder: Path | str, *, task: int, trial: int, space: ActionSpace) -> EpisodeTrace:
    """Reads an episode that an evaluation has recorded.

    Args:
        folder: output folder of the evaluation, with `results.json`, `traces/` and `videos/`.
        task: index of the task.
        trial: which episode of the task.
        space: action space of the evaluated policy.

    Raises:
        LibraError: the episode was not recorded, or its files are damaged.
    """
    folder = Path(folder)
    results = read_json(folder / "results.json")
    video, path = episode_files(folder, task, trial)
    try:
        outcome = next(t for t in results["trials"] if (t["task"], t["trial"]) == (task, trial))
        instruction = next(t["instruction"] for t in results["tasks"] if t["index"] == task)
        with np.load(path, allow_pickle=False) as file:
            arrays = {field: file[field] for field in FIELDS}
    except StopIteration:
        raise LibraError(f"{folder} has no trial {trial} of task {task}: choose another") from None
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise LibraError(f"{path} is not a trace of an episode ({error})") from error
    # The film holds one frame per chunk, as the policy saw it, and one after the last action.
    frames = read_video(video, fps=space.convention.rate_hz) if video.exists() else NO_FRAMES
    moments = np.append(arrays["step"], arrays["step"][-1] + arrays["executed"][-1])
    count = min(len(frames), len(moments))
    return EpisodeTrace(
        space=space,
        instruction=instruction,
        success=bool(outcome["success"]),
        **arrays,
        frames=frames[:count],
        frame_steps=moments[:count],
    )
