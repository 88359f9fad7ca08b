"""From a dataset of stills to batches that teach where things are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from libra_vla.data.lerobot import ABSENT, PLACES, LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.policies.batch import Moment
from libra_vla.policies.places import POSE, Truth, rotations
from libra_vla.policies.policy import LibraPolicy
from libra_vla.training.samples import Augmentation, Samples
from libra_vla.views import Views


@dataclass(frozen=True)
class StillSamples:
    """Draws stills, and where the things in them are.

    Attributes:
        samples: of the same dataset; its actions are not looked at.
        places: of every row and every thing that the policy knows, metres from the end effector,
            float32 [T, P, 3].
        present: which things are there, bool [T, P].
        asked: what each row's instruction is about, as indices of things, int64 [T, K].
        hand: where it is and how it is turned, m and an axis times an angle, float32 [T, 6].
        views: of each episode's cameras.
        episode: which one a row is of, int64 [T].
    """

    samples: Samples
    places: np.ndarray
    present: np.ndarray
    asked: np.ndarray
    hand: np.ndarray
    views: Views
    episode: np.ndarray

    @classmethod
    def of(
        cls, policy: LibraPolicy, dataset: LeRobotDataset, episodes: Sequence[int]
    ) -> "StillSamples":
        """Stills that fit a policy: its cameras and statistics, and the things that it knows.

        Raises:
            LibraError: these are no stills, or they tell other things.
        """
        things = policy.config.planner.things
        if missing := sorted(set(things) - set(dataset.place_names)):
            raise LibraError(
                f"{dataset.path} does not tell where '{missing[0]}' is, as the policy does: give "
                "stills of the same benchmark, or train with them first"
            )
        places = _told(dataset)[:, [dataset.place_names.index(name) for name in things]]
        hand = dataset.states[:, :POSE]
        asked = [[things.index(name) for name in episode.asked] for episode in dataset.episodes]
        cameras, told = policy.observation_spec.cameras, [e.views for e in dataset.episodes]
        lengths = [episode.length for episode in dataset.episodes]
        return cls(
            Samples.of(policy, dataset, episodes),
            places - hand[:, None, :3],
            (places != ABSENT).any(axis=2),
            np.repeat(np.array(asked), lengths, axis=0),
            hand,
            Views.of([[views.get(camera) for camera in cameras] for views in told]),
            np.repeat(np.arange(len(lengths)), lengths),
        )

    def batch(
        self, rng: np.random.Generator, size: int, augmentation: Augmentation
    ) -> tuple[Moment, Truth]:
        """Draws `size` stills, with replacement, and where their things are.

        They are never shifted: a picture that is says that things are elsewhere.
        """
        augmentation = replace(augmentation, shift=0.0)
        rows = rng.choice(self.samples.rows, size=size)
        words = augmentation.words(self.samples.instruction[rows].tolist(), rng)
        return self.samples.moment(rows, words, augmentation, rng), self.truth(rows)

    def truth(self, rows: np.ndarray) -> Truth:
        """Where the things are in some rows, and in the pictures of them."""
        places, present, hand = self.places[rows], self.present[rows], self.hand[rows]
        pictured = self.views[self.episode[rows]].pictured(
            places + hand[:, None, :3],
            hand[:, :3],
            rotations(torch.from_numpy(hand[:, 3:])).numpy(),
        )
        pictured[~np.broadcast_to(present[:, None], pictured.shape[:3])] = np.nan
        told = (places, present, self.asked[rows], pictured)
        return Truth(*map(torch.from_numpy, told))


def things_of(dataset: LeRobotDataset) -> tuple[tuple[str, ...], int]:
    """Names of the P things that are to be seen in a dataset of stills, and K, how many of them an
    instruction is about.

    Raises:
        LibraError: these are no stills, or they do not say what their instructions are about, or
            not of as many things each.
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
