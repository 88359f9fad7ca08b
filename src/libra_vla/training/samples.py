"""From a dataset to batches; every batch is a pure function of (seed, step)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from libra_vla.action_space import ActionSpace
from libra_vla.config import PolicyConfig
from libra_vla.data.frames import FrameStore
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.paraphrases import HELD_OUT, paraphrases
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.policy import LibraPolicy, StateStatistics

FOCUS_SECONDS = 0.8
"""How long before the gripper opens or closes a sample is one to focus on."""


@dataclass(frozen=True)
class Augmentation:
    """Random shift (share of the image side), brightness and contrast (relative change), and other
    words (probability)."""

    shift: float = 0.0
    jitter: float = 0.0
    paraphrase: float = 0.0

    def words(self, instructions: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
        """Instructions, some of them in other words; those kept for evaluation are never used."""
        if self.paraphrase == 0.0:
            return tuple(instructions)
        chosen = rng.random(len(instructions)) < self.paraphrase
        drawn = rng.random(len(instructions))
        return tuple(
            _other_words(text, draw) if other else text
            for text, other, draw in zip(instructions, chosen, drawn, strict=True)
        )

    def apply(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Frames uint8 [B, C, h, w, 3] -> float32 [B, C, 3, h, w] in [0, 1].

        Each frame is shifted on its own; what leaves the edge is replaced by the edge pixel.
        """
        batch, cameras, height, width, _ = frames.shape
        if (largest := round(self.shift * height)) > 0:
            edge = ((0, 0), (0, 0), (largest, largest), (largest, largest), (0, 0))
            padded, frames = np.pad(frames, edge, mode="edge"), np.empty_like(frames)
            for sample, camera in np.ndindex(batch, cameras):
                top, left = rng.integers(0, 2 * largest + 1, size=2)
                window = (slice(top, top + height), slice(left, left + width))
                frames[sample, camera] = padded[sample, camera][window]
        images = frames.astype(np.float32)
        images /= 255.0
        if self.jitter > 0:
            size = (2, batch, cameras, 1, 1, 1)
            gain, offset = rng.uniform(-self.jitter, self.jitter, size).astype(np.float32)
            images -= 0.5
            images *= 1.0 + gain
            images += 0.5 + offset
            np.clip(images, 0.0, 1.0, out=images)
        # The memory stays channels-last, which is what the convolutions want.
        return np.moveaxis(images, -1, 2)


def _other_words(instruction: str, draw: float) -> str:
    """A paraphrase for training, by a number in [0, 1); the instruction itself if it has none."""
    known = [p for k, p in enumerate(paraphrases(instruction)) if k != HELD_OUT]
    return known[int(draw * len(known))] if known else instruction


class Samples:
    """Draws training batches from the frames, states and actions of a dataset.

    The planner's observation is up to (M - 1) x H steps older than the refiner's, as it will be
    at run time, but never older than the episode, or the stretch of it between two shoves.
    """

    def __init__(
        self,
        dataset: LeRobotDataset,
        episodes: Sequence[int],
        config: PolicyConfig,
        action_space: ActionSpace,
        state_statistics: StateStatistics,
        cameras: Sequence[str],
    ) -> None:
        self.config, self.action_space = config, action_space
        self.places: np.ndarray | None = None
        # A policy without images is trained without decoding any.
        self.frames = FrameStore.open(dataset, config.image_size, cameras) if cameras else None
        self.states = state_statistics.standardise(dataset.states)
        self.actions = action_space.normalise(dataset.actions)
        self.coarse = action_space.encode(self.actions)
        self.instruction = np.empty(len(self.states), dtype=object)
        self.first = np.zeros(len(self.states), dtype=np.int64)
        self.last = np.zeros(len(self.states), dtype=np.int64)
        self.every = np.ones(len(self.states), dtype=np.int64)
        rows, drawn = [], []
        for index in episodes:
            episode = dataset.episodes[index]
            drawn.append(episode.start + episode.drawn)
            for span in episode.spans:
                self.instruction[span] = episode.instruction
                self.first[span], self.last[span] = span.start, span.stop - 1
                self.every[span] = episode.drawn_every
                rows.append(np.arange(span.start, span.stop))
        self._rows = np.concatenate(rows)
        # What to draw from: without a picture of its own a row would show another one's.
        self.rows = self._rows if self.frames is None else np.concatenate(drawn)

    @classmethod
    def of(
        cls,
        policy: LibraPolicy,
        dataset: LeRobotDataset,
        episodes: Sequence[int],
        *,
        seen: bool = True,
    ) -> "Samples":
        """Samples that fit a policy: its cameras, statistics and action space.

        Args:
            seen: whether there is anyone who looks at pictures; without, every frame is a sample,
                those between two pictures too.
        """
        samples = cls(
            dataset,
            episodes,
            policy.config,
            policy.action_space,
            policy.state_statistics,
            policy.observation_spec.cameras if seen else (),
        )
        if not policy.config.planner.sees and dataset.places is not None:
            samples.places = places_asked(dataset, dataset.places)
        return samples

    @property
    def gripper_changes(self) -> np.ndarray:
        """The rows, int64 [K], whose action is the first of an opened or a closed gripper."""
        gripper = self.action_space.convention.gripper
        if gripper is None:
            return self._rows[:0]
        changes = self._rows[1:][np.diff(self.coarse[self._rows, gripper]) != 0]
        return changes[changes > self.first[changes]]

    @cached_property
    def decisive(self) -> np.ndarray:
        """The rows, int64 [K], up to `FOCUS_SECONDS` before the gripper opens or closes.

        Raises:
            LibraError: it never does.
        """
        steps = round(FOCUS_SECONDS * self.action_space.convention.rate_hz)
        changes = self.gripper_changes
        if not len(changes):
            raise LibraError("focus needs a gripper that opens or closes: leave out --focus")
        before = np.maximum(changes[:, None] - np.arange(steps + 1), self.first[changes, None])
        return np.intersect1d(before, self.rows)

    def batch(
        self,
        rng: np.random.Generator,
        size: int,
        augmentation: Augmentation | None = None,
        *,
        focus: float = 0.0,
    ) -> Batch:
        """Draws `size` samples, with replacement; a share `focus` of them among the `decisive`."""
        config = self.config
        augmentation = augmentation or Augmentation()
        current = rng.choice(self.rows, size=size)
        if focus > 0.0:
            chosen = rng.random(size) < focus
            current = np.where(chosen, rng.choice(self.decisive, size=size), current)
        every = self.every[current] if self.frames is not None else 1
        oldest = (config.horizon_factor - 1) * config.chunk
        offset = rng.integers(0, oldest // every + 1, size=size) * every
        offset = np.minimum(offset, current - self.first[current])
        planned = current - offset
        coarse, coarse_valid = self.ahead(self.coarse, planned, config.macro_horizon)
        actions, actions_valid = self.ahead(self.actions, current, config.chunk)
        words = augmentation.words(self.instruction[current].tolist(), rng)
        return Batch(
            planned=self.moment(planned, words, augmentation, rng),
            current=self.moment(current, words, augmentation, rng),
            offset=torch.from_numpy(offset),
            coarse=torch.from_numpy(coarse),
            coarse_valid=torch.from_numpy(coarse_valid),
            actions=torch.from_numpy(actions),
            actions_valid=torch.from_numpy(actions_valid),
        )

    def ahead(
        self, table: np.ndarray, start: np.ndarray, steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows start .. start + steps - 1 of a table, and which of them the episode still has.

        Args:
            table: one line per row of the dataset, [T, D].
            start: rows, [B].

        Returns:
            [B, steps, D], and bool [B, steps]; beyond the episode its last line is repeated.
        """
        wanted = start[:, None] + np.arange(steps)
        last = self.last[start][:, None]
        return table[np.minimum(wanted, last)], wanted <= last

    def moment(
        self,
        rows: np.ndarray,
        words: tuple[str, ...],
        augmentation: Augmentation,
        rng: np.random.Generator,
    ) -> Moment:
        """What is seen at `rows` [B], told in `words` (B texts); `rng` is the augmentation's."""
        if self.frames is None:
            size = self.config.image_size
            images = np.zeros((len(rows), 0, 3, size, size), dtype=np.float32)
        else:
            images = augmentation.apply(self.frames.of(rows), rng)
        return Moment(
            images=torch.from_numpy(images),
            state=torch.from_numpy(self.states[rows]),
            instructions=words,
            places=None if self.places is None else torch.from_numpy(self.places[rows]),
        )


def places_asked(dataset: LeRobotDataset, places: np.ndarray) -> np.ndarray:
    """Where the things are that each row's instruction is about, metres from the end effector,
    float32 [T, K, 3]."""
    names = dataset.place_names
    found = [
        places[episode.start : episode.start + episode.length][
            :, [names.index(name) for name in episode.asked]
        ]
        for episode in dataset.episodes
    ]
    return np.concatenate(found) - dataset.states[:, None, :3]
