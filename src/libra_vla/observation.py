"""What a policy sees at one control step, and the specification it is checked against."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from libra_vla.errors import LibraError


@dataclass(frozen=True)
class Observation:
    """One moment as the robot sees it.

    Attributes:
        images: camera name -> uint8 [height, width, 3], RGB, upright (LIBERO's raw frames are
            turned by 180 degrees exactly once, by the environment).
        state: proprioception, float32 [S]; on LIBERO: end-effector position (m), axis-angle
            (rad), gripper joint positions (m).
        instruction: what to do, in words.
        step: control step within the episode; 0 is the first one after settling.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    instruction: str
    step: int = 0


@dataclass(frozen=True)
class ObservationSpec:
    """What a policy needs to see: `cameras` by name, in order, and `state_size` numbers."""

    cameras: tuple[str, ...]
    state_size: int
    state_names: tuple[str, ...] = field(default=())

    def check(self, observation: Observation) -> None:
        """Raises LibraError, naming the key, if `observation` does not fit."""
        for camera in self.cameras:
            if camera not in observation.images:
                raise LibraError(
                    f"camera '{camera}' is missing from the observation: the policy was trained "
                    f"with {list(self.cameras)}, got {sorted(observation.images)}"
                )
            image = observation.images[camera]
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise LibraError(
                    f"image '{camera}' is {image.dtype}{list(image.shape)}: expected "
                    "uint8[height, width, 3]"
                )
        state = np.asarray(observation.state)
        if state.shape != (self.state_size,):
            raise LibraError(
                f"state has shape {list(state.shape)}: the policy was trained with "
                f"[{self.state_size}]"
            )
        if not np.isfinite(state).all():
            raise LibraError(
                f"state holds NaN or infinity at index {np.flatnonzero(~np.isfinite(state))[0]}: "
                "check the robot's sensors"
            )
