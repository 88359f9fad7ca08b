"""From a dataset of stills to batches that teach where things are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from libra_vla.data.lerobot import PLACES, LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.policies.batch import Moment
from libra_vla.policies.policy import LibraPolicy
from libra_vla.training.samples import Augmentation, Samples


@dataclass(frozen=True)
class StillSamples:
    """Draws stills, and where the things in them are.

    Attributes:
        samples: of the same dataset; its actions are not looked at.
        places: of every row, metres from the end effector, float32 [T, K, 3].
    """

    samples: Samples
    places: np.ndarray

    @classmethod
    def of(
        cls, policy: LibraPolicy, dataset: LeRobotDataset, episodes: Sequence[int]
    ) -> "StillSamples":
        """Stills that fit a policy: its cameras and statistics."""
        hand = dataset.states[:, None, :3]
        return cls(Samples.of(policy, dataset, episodes), _told(dataset) - hand)

    def batch(
        self, rng: np.random.Generator, size: int, augmentation: Augmentation
    ) -> tuple[Moment, Tensor]:
        """Draws `size` stills, with replacement, and their places [size, K, 3] (m, from the hand).

        They are never shifted: a picture that is says that things are elsewhere.
        """
        augmentation = replace(augmentation, shift=0.0)
        rows = rng.choice(self.samples.rows, size=size)
        words = augmentation.words(self.samples.instruction[rows].tolist(), rng)
        seen = self.samples.moment(rows, words, augmentation, rng)
        return seen, torch.from_numpy(self.places[rows])


def places_of(dataset: LeRobotDataset) -> int:
    """K, how many places each still tells."""
    return _told(dataset).shape[1]


def _told(dataset: LeRobotDataset) -> np.ndarray:
    if dataset.places is None:
        raise LibraError(
            f"{dataset.path} has no '{PLACES}': give stills, as `libra collect --stills` makes them"
        )
    return dataset.places
