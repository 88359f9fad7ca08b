"""`LibraPolicy`: a network with everything inference needs; NumPy in, NumPy out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from libra_vla.action_space import ActionSpace
from libra_vla.config import PolicyConfig, from_json, to_json
from libra_vla.errors import LibraError
from libra_vla.execution.protocol import Plan
from libra_vla.files import atomic_folder, read_json, sha256, write_json
from libra_vla.images import resize
from libra_vla.observation import Observation, ObservationSpec
from libra_vla.policies.batch import Moment
from libra_vla.policies.checkpoints import MANIFEST, WEIGHTS, find_checkpoint, write_tensors
from libra_vla.policies.denoising import Join
from libra_vla.policies.models import make_model

FORMAT = 1


@dataclass(frozen=True)
class StateStatistics:
    """Mean and standard deviation of proprioception, per number; they travel with the weights."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, states: np.ndarray) -> "StateStatistics":
        """From states [T, S]; a number that never moved is left unscaled."""
        std = states.std(axis=0, dtype=np.float64)
        return cls(
            tuple(states.mean(axis=0, dtype=np.float64).tolist()),
            tuple(np.where(std > 1e-6, std, 1.0).tolist()),
        )

    def standardise(self, states: np.ndarray) -> np.ndarray:
        """States [..., S] -> float32 [..., S] with zero mean and unit variance, cut at 5."""
        scaled = (np.asarray(states) - np.asarray(self.mean)) / np.asarray(self.std)
        return np.clip(scaled, -5.0, 5.0).astype(np.float32)


@dataclass
class LibraPolicy:
    """A policy of the execution protocol, as trained, saved and loaded.

    Attributes:
        config: architecture.
        action_space: normalisation, bins and conventions it was trained with.
        observation_spec: cameras and state it reads.
        state_statistics: how proprioception is standardised.
        training: what training recorded (steps, curriculum switch, dataset, versions).
        model: the network, in evaluation mode unless it is being trained.
    """

    config: PolicyConfig
    action_space: ActionSpace
    observation_spec: ObservationSpec
    state_statistics: StateStatistics
    training: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_hash: str | None = None

    def __post_init__(self) -> None:
        self.model = make_model(
            self.config,
            bins=self.action_space.bins,
            cameras=len(self.observation_spec.cameras),
            state_size=self.observation_spec.state_size,
        ).eval()
        if (places := getattr(getattr(self.model, "planner", None), "places", None)) is not None:
            places.standardised_by(self.state_statistics.mean, self.state_statistics.std)
        self._noise = torch.Generator()

    @property
    def chunk(self) -> int:
        return self.config.chunk

    @property
    def horizon_factor(self) -> int:
        return self.config.horizon_factor

    @property
    def soft_intents(self) -> bool:
        """Whether the refiner is given the planner's whole distribution."""
        return self.config.intents == "soft"

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def reset(self, seed: int) -> None:
        """Starts an episode: the noise of everything that follows comes from `seed`."""
        self._noise.manual_seed(seed)

    def see(self, observation: Observation) -> Moment:
        """Checks, resizes and standardises one observation into a batch of one.

        Raises:
            LibraError: a camera is missing, a shape is wrong or the state is not finite.
        """
        self.observation_spec.check(observation)
        size = self.config.image_size
        images = [resize(observation.images[c], size) for c in self.observation_spec.cameras]
        stacked = np.stack(images) if images else np.zeros((0, size, size, 3), dtype=np.uint8)
        state = self.state_statistics.standardise(observation.state)
        return Moment(
            images=(torch.from_numpy(stacked).permute(0, 3, 1, 2)[None].to(self.device) / 255.0),
            state=torch.from_numpy(state)[None].to(self.device),
            instructions=(observation.instruction,),
        )

    @torch.inference_mode()
    def plan(self, observation: Observation) -> Plan:
        """Coarse actions of the next L control steps, and the planner's distribution."""
        distribution = self.model.plan(self.see(observation))[0].float().cpu()
        return Plan(
            coarse=distribution.argmax(dim=-1).numpy(),
            distribution=distribution.numpy(),
            observation_step=observation.step,
        )

    @torch.inference_mode()
    def refine(self, observation: Observation, coarse: np.ndarray) -> np.ndarray:
        """Raw actions, float32 [H, D], that fill in coarse ones; see `intent_weights`."""
        return self._refine(observation, coarse)

    @torch.no_grad()  # guidance leads back through the network, which inference mode rules out
    def refine_onto(
        self, observation: Observation, coarse: np.ndarray, known: np.ndarray, *, frozen: int
    ) -> np.ndarray:
        """Like `refine`, but agrees with raw actions [k, D] that the last chunk left over."""
        left_over = torch.from_numpy(self.action_space.normalise(known)).to(self.device)
        return self._refine(observation, coarse, Join.onto(left_over, frozen, self.chunk))

    def _refine(
        self, observation: Observation, coarse: np.ndarray, join: Join | None = None
    ) -> np.ndarray:
        weights = intent_weights(coarse, max(self.action_space.bins)).to(self.device)
        noise = torch.randn((1, self.chunk, self.action_space.size), generator=self._noise)
        noise = noise.to(self.device)
        actions = self.model.refine(self.see(observation), weights[None], noise, join)
        return self.action_space.denormalise(actions[0].float().cpu().numpy())

    def parameters(self) -> dict[str, int]:
        """Number of parameters, `total` and `trainable`."""
        every = list(self.model.parameters())
        return {
            "total": sum(p.numel() for p in every),
            "trainable": sum(p.numel() for p in every if p.requires_grad),
        }

    def describe(self) -> dict[str, Any]:
        """What results.json says of a policy."""
        return {
            "preset": self.config.preset,
            "kind": self.config.kind,
            "parameters": self.parameters()["total"],
            "N": self.config.granularity,
            "M": self.horizon_factor,
            "H": self.chunk,
            "cameras": list(self.observation_spec.cameras),
            "checkpoint_hash": self.checkpoint_hash,
        }

    def save_pretrained(
        self,
        folder: Path | str,
        weights: Mapping[str, torch.Tensor] | None = None,
        *,
        half: bool = False,
    ) -> None:
        """Writes weights (safetensors) and manifest (JSON) as a whole or not at all.

        Args:
            weights: state dict to save instead of the model's own, for instance its EMA.
            half: write 16-bit floats; they are loaded as 32-bit ones.
        """
        tensors = dict(self.model.state_dict() if weights is None else weights)
        if half:
            tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        with atomic_folder(folder) as aside:
            write_tensors(tensors, aside / WEIGHTS)
            write_json(
                aside / MANIFEST,
                {
                    "format": FORMAT,
                    "weights_sha256": sha256(aside / WEIGHTS),
                    "config": to_json(self.config),
                    "action_space": self.action_space.to_json(),
                    "observation_spec": to_json(self.observation_spec),
                    "state_statistics": to_json(self.state_statistics),
                    "training": dict(self.training),
                },
            )

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: str = "cpu") -> "LibraPolicy":
        """Loads a checkpoint; `folder` as in `find_checkpoint`.

        Raises:
            LibraError: nothing there, damaged or truncated files, or another format.
        """
        folder = find_checkpoint(folder)
        manifest = read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise LibraError(
                f"{folder / MANIFEST} has format {manifest.get('format')}: this version reads "
                f"format {FORMAT}"
            )
        if not (folder / WEIGHTS).exists() or sha256(folder / WEIGHTS) != manifest.get(
            "weights_sha256"
        ):
            raise LibraError(
                f"{folder / WEIGHTS} is missing or damaged (its checksum differs from the "
                "manifest's): copy or train the checkpoint again"
            )
        spec = manifest["observation_spec"]
        policy = cls(
            config=from_json(PolicyConfig, manifest["config"]),
            action_space=ActionSpace.from_json(manifest["action_space"]),
            observation_spec=from_json(ObservationSpec, spec, where="observation_spec"),
            state_statistics=from_json(
                StateStatistics, manifest["state_statistics"], where="state_statistics"
            ),
            training=manifest["training"],
            checkpoint_hash=manifest["weights_sha256"],
        )
        try:
            policy.model.load_state_dict(load_file(folder / WEIGHTS))
        except (SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise LibraError(f"{folder / WEIGHTS} does not fit its configuration ({reason})") from (
                error
            )
        policy.model.to(device)
        return policy


def intent_weights(coarse: np.ndarray, bins: int) -> torch.Tensor:
    """How much each bin weighs in an intent, float32 [..., H, D, N_max].

    Args:
        coarse: bins, integers [..., H, D], which weigh all or nothing; or weights, as they are.
        bins: N_max.
    """
    given = torch.from_numpy(np.asarray(coarse))
    if given.is_floating_point():
        return given.float()
    return torch.nn.functional.one_hot(given, bins).float()


def load_policy(folder: Path | str, *, device: str = "cpu") -> LibraPolicy:
    """Loads any policy that `libra train` wrote; see `LibraPolicy.from_pretrained`."""
    return LibraPolicy.from_pretrained(folder, device=device)
