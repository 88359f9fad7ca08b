"""What a client may say, key by key: openpi's observation keys, and a few optional ones of ours."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from libra_vla.action_space import ActionConvention
from libra_vla.errors import LibraError
from libra_vla.images import resize
from libra_vla.observation import Observation, ObservationSpec

OPENPI_CAMERAS = {"agentview": "observation/image", "wrist": "observation/wrist_image"}
"""Our name of a LIBERO camera -> the key under which openpi's LIBERO client sends it."""
STATE, PROMPT = "observation/state", "prompt"
RESET, SEED, STEP = "libra/reset", "libra/seed", "libra/step"
SEQUENCE, CONVENTION = "libra/sequence", "libra/convention"
OPTIONS = (RESET, SEED, STEP, SEQUENCE, CONVENTION)
MAX_SIDE, MAX_PROMPT, MAX_NUMBER = 4096, 4096, 2**63 - 1


@dataclass(frozen=True)
class Request:
    """One message of a client, checked.

    Attributes:
        observation: what the robot sees; its step is `step`, or 0.
        reset: the client says that an episode begins.
        seed: of the episode's noise; None for the server's.
        step: control step of the observation within its episode; None if the client does not say.
        sequence: number that the answer repeats; None if there was none.
    """

    observation: Observation
    reset: bool = False
    seed: int | None = None
    step: int | None = None
    sequence: int | None = None


def camera_key(camera: str) -> str:
    """The key under which images of `camera` are expected."""
    return OPENPI_CAMERAS.get(camera, f"observation/{camera}")


def read_request(
    message: Mapping[str, Any], spec: ObservationSpec, convention: ActionConvention
) -> Request:
    """Turns a decoded message into a request.

    Keys that are not known are ignored (openpi clients may send more cameras than a policy reads),
    unless they begin with "libra/".

    Raises:
        LibraError: naming the key that is missing, or of a wrong type, shape or value.
    """
    for key in message:
        if key.startswith("libra/") and key not in OPTIONS:
            raise LibraError(f"'{key:.80}' is not known: expected one of {', '.join(OPTIONS)}")
    if (theirs := message.get(CONVENTION)) is not None:
        _require_same(convention, theirs)
    reset = message.get(RESET, False)
    if not isinstance(reset, bool):
        raise LibraError(f"'{RESET}' is {reset!r:.80}: expected true or false")
    step = _whole(message, STEP)
    observation = Observation(
        images={camera: _image(message, camera_key(camera)) for camera in spec.cameras},
        state=_state(message, spec),
        instruction=_prompt(message),
        step=step or 0,
    )
    return Request(observation, reset, _whole(message, SEED), step, _whole(message, SEQUENCE))


def write_observation(observation: Observation, cameras: tuple[str, ...]) -> dict[str, Any]:
    """Returns the keys of an observation, as `read_request` reads them."""
    images = {camera_key(camera): observation.images[camera] for camera in cameras}
    return images | {
        STATE: np.asarray(observation.state, dtype=np.float32),
        PROMPT: observation.instruction,
        STEP: observation.step,
    }


def shrunk(observation: Observation, size: int | None) -> Observation:
    """Returns the observation with its images resized as the policy does it; None leaves them."""
    if size is None:
        return observation
    images = {camera: resize(image, size) for camera, image in observation.images.items()}
    return replace(observation, images=images)


def _present(message: Mapping[str, Any], key: str) -> Any:
    if key not in message:
        names = ", ".join(f"'{name:.40}'" for name in sorted(message)[:12])
        raise LibraError(f"'{key}' is missing: the message has {names or 'no keys'}")
    return message[key]


def _array(message: Mapping[str, Any], key: str, expected: str) -> np.ndarray:
    value = _present(message, key)
    if not isinstance(value, np.ndarray):
        raise LibraError(f"'{key}' is a {type(value).__name__}: expected an array, {expected}")
    return value


def _image(message: Mapping[str, Any], key: str) -> np.ndarray:
    expected = f"uint8[height, width, 3] with sides of 1 to {MAX_SIDE}"
    image = _array(message, key, expected)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise LibraError(f"'{key}' is {image.dtype}{list(image.shape)}: expected {expected}")
    if not all(1 <= side <= MAX_SIDE for side in image.shape[:2]):
        raise LibraError(f"'{key}' is {image.shape[0]} x {image.shape[1]}: expected {expected}")
    return image


def _state(message: Mapping[str, Any], spec: ObservationSpec) -> np.ndarray:
    expected = f"{spec.state_size} finite numbers"
    if spec.state_names:
        expected += f" ({', '.join(spec.state_names)})"
    state = _array(message, STATE, expected)
    if state.shape != (spec.state_size,) or state.dtype.kind not in "fiu":
        raise LibraError(f"'{STATE}' is {state.dtype}{list(state.shape)}: expected {expected}")
    with np.errstate(over="ignore"):
        state = state.astype(np.float32)
    if not np.isfinite(state).all():
        index = int(np.flatnonzero(~np.isfinite(state))[0])
        raise LibraError(f"'{STATE}' holds {state[index]} at index {index}: expected {expected}")
    return state


def _prompt(message: Mapping[str, Any]) -> str:
    prompt = _present(message, PROMPT)
    if not isinstance(prompt, str) or not 1 <= len(prompt) <= MAX_PROMPT:
        found = f"{len(prompt)} characters" if isinstance(prompt, str) else type(prompt).__name__
        raise LibraError(f"'{PROMPT}' is {found}: expected a text of 1 to {MAX_PROMPT} characters")
    return prompt


def _whole(message: Mapping[str, Any], key: str) -> int | None:
    value = message.get(key)
    if isinstance(value, np.integer):
        value = int(value)
    if value is not None and (type(value) is not int or not 0 <= value <= MAX_NUMBER):
        raise LibraError(f"'{key}' is {value!r:.80}: expected a whole number, at least 0")
    return value


def _require_same(mine: ActionConvention, theirs: Any) -> None:
    if not isinstance(theirs, dict):
        raise LibraError(f"'{CONVENTION}' is a {type(theirs).__name__}: expected a map of fields")
    mine.require_equal(
        ActionConvention.from_json(theirs), mine="the policy", theirs=f"'{CONVENTION}'"
    )
