"""Training: from a dataset to a checkpoint."""

from libra_vla.training.config import TrainConfig
from libra_vla.training.trainer import train

__all__ = ["TrainConfig", "train"]
