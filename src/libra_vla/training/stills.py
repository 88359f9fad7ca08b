"""From a dataset of stills to batches that teach where things are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from libra_vla.data.lerobot import ABSENT, PLACES, LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.policies.batch import Moment
from libra_vla.policies.places import Truth
from libra_vla.policies.policy import LibraPolicy
from libra_vla.training.samples import Augmentation, Samples

NAMED = 0.5
"""Share of the stills at which the planner is asked for one thing, by its name, in place of its
task's instruction: it looks for what it is asked for, and a scene has more things than its task."""


@dataclass(frozen=True)
class StillSamples:
    """Draws stills, and where the things in them are.

    Attributes:
        samples: of the same dataset; its actions are not looked at.
        places: of every row and every thing that the policy knows, metres from the end effector,
            float32 [T, P, 3].
        present: which things are there, bool [T, P].
        asked: what each row's instruction is about, as indices of things, int64 [T, K].
        names: what things are called, P of them; two that are alike share a name.
    """

    samples: Samples
    places: np.ndarray
    present: np.ndarray
    asked: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, policy: LibraPolicy, dataset: LeRobotDataset, episodes: Sequence[int]
    ) -> "StillSamples":
        """Stills that fit a policy: its cameras and statistics, and the things that it knows."""
        things = policy.config.planner.things
        places = _told(dataset)[:, [dataset.place_names.index(name) for name in things]]
        hand = dataset.states[:, None, :3]
        asked = [[things.index(name) for name in episode.asked] for episode in dataset.episodes]
        lengths = [episode.length for episode in dataset.episodes]
        return cls(
            Samples.of(policy, dataset, episodes),
            places - hand,
            (places != ABSENT).any(axis=2),
            np.repeat(np.array(asked), lengths, axis=0),
            tuple(called(name) for name in things),
        )

    def batch(
        self, rng: np.random.Generator, size: int, augmentation: Augmentation
    ) -> tuple[Moment, Truth]:
        """Draws `size` stills, with replacement, and where their things are.

        They are never shifted: a picture that is says that things are elsewhere.
        """
        augmentation = replace(augmentation, shift=0.0)
        rows = rng.choice(self.samples.rows, size=size)
        words = [*augmentation.words(self.samples.instruction[rows].tolist(), rng)]
        truth = self.truth(rows)
        for still in np.flatnonzero(rng.random(size) < NAMED):
            thing = int(rng.choice(self._single(rows[still])))
            words[still] = self.names[thing]
            truth.asked[still] = thing
        return self.samples.moment(rows, tuple(words), augmentation, rng), truth

    def _single(self, row: int) -> np.ndarray:
        """The things that a name alone tells from all others in a row, or any if there are none."""
        there = np.flatnonzero(self.present[row])
        names = [self.names[thing] for thing in there]
        single = [thing for thing, name in zip(there, names, strict=True) if names.count(name) == 1]
        return np.array(single) if single else there

    def truth(self, rows: np.ndarray) -> Truth:
        """Where the things are in some rows."""
        return Truth(
            *(torch.from_numpy(of[rows]) for of in (self.places, self.present, self.asked))
        )


def called(thing: str) -> str:
    """What a thing is called: "wine_bottle_1" is a wine bottle."""
    return " ".join(re.sub(r"_\d+(?=_|$)", "", thing).split("_"))


def things_of(dataset: LeRobotDataset) -> tuple[tuple[str, ...], int]:
    """Names of what is to be seen in a dataset of stills, and K, of how many things an instruction
    is.

    Raises:
        LibraError: these are no stills, or they do not say what their instructions are about.
    """
    seen = (_told(dataset) != ABSENT).any(axis=(0, 2))
    things = tuple(name for name, there in zip(dataset.place_names, seen, strict=True) if there)
    for episode in dataset.episodes:
        if not episode.asked or not set(episode.asked) <= set(things):
            raise LibraError(
                f"{dataset.path}: episode {episode.index} is about '{' '.join(episode.asked)}' and "
                f"there are {', '.join(things)}: make the stills again with `libra collect`"
            )
    if len(several := {len(episode.asked) for episode in dataset.episodes}) > 1:
        raise LibraError(
            f"{dataset.path}: instructions are about {sorted(several)} places: expected one number"
        )
    return things, several.pop()


def _told(dataset: LeRobotDataset) -> np.ndarray:
    if dataset.places is None:
        raise LibraError(
            f"{dataset.path} has no '{PLACES}': give stills, as `libra collect --stills` makes them"
        )
    return dataset.places
