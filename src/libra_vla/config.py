"""Configuration as frozen dataclasses that read and write plain JSON, and the presets.

A preset is data: a JSON file in `presets/` whose fields are those of `PolicyConfig`.
"""

from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from libra_vla.errors import LibraError, unknown
from libra_vla.files import json_from_text

BackboneKind = Literal["small", "internvl"]
EncoderKind = Literal["small", "siglip", "shared"]
Intents = Literal["hard", "soft"]
PolicyKind = Literal[
    "libra", "monolithic", "monolithic_ve", "action_expert", "autoregressive", "prompted",
    "parallel", "fast_in_slow",
]  # fmt: skip


@dataclass(frozen=True)
class BackboneConfig:
    """What gives the planner its image and language tokens.

    Attributes:
        kind: "small" trains from scratch; "internvl" is Hugging Face's native InternVL.
        width: token width W of the small backbone.
        modulated: whether the instruction modulates the small backbone's convolutions (FiLM).
        attentive: whether the words that matter, picked by attention, say what it modulates them
            for, and where a planner that tells places looks; or else the mean of all words.
        blocks: residual blocks of the small backbone.
        model: fields of the Hugging Face configuration ("internvl" only).
        tokenizer: folder or hub name of the tokenizer ("internvl" only).
        frozen: parts that are not trained, by attribute name ("vision_tower").
    """

    kind: BackboneKind = "small"
    width: int = 128
    modulated: bool = False
    attentive: bool = False
    blocks: int = 1
    model: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = ""
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannerConfig:
    """Semantic Planner: a backbone and the Parallel Coarse-Action Head.

    Attributes:
        width, layers, heads: of the bidirectional head; the paper's: 1024, 12.
        use_state: whether the planner reads proprioception (open in the paper).
        things: names of the P things whose places it tells itself on the way to a plan (not in the
            paper); learned from stills, see `libra train --stills`.
        asked: K, of how many of them a plan is made: those that the instruction is about.
        sees: whether its plans are made of the pictures as well, or of the places that it tells, of
            proprioception and of the instruction alone. Then it tells places by key points, and
            learns to plan from true ones; see `libra collect --places`.
    """

    backbone: BackboneConfig = BackboneConfig()
    width: int = 128
    layers: int = 2
    heads: int = 4
    use_state: bool = True
    things: tuple[str, ...] = ()
    asked: int = 0
    sees: bool = True


@dataclass(frozen=True)
class EncoderConfig:
    """The refiner's own visual encoder; fields as in `BackboneConfig`.

    "shared" is none of its own (Libra-Refinement): it looks through the planner's small backbone.
    With `shrink` a small one looks at images of a so many times smaller side.
    """

    kind: EncoderKind = "small"
    width: int = 128
    shrink: int = 1
    model: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RefinerConfig:
    """Action Refiner: an independent visual encoder and a diffusion transformer.

    Attributes:
        width, layers, heads, ratio: of the diffusion transformer (open in the paper).
        denoising: "ddpm" (noise prediction, the paper) or "flow" (rectified flow).
        train_steps: DDPM's number of noise levels.
        sample_steps: denoising steps per chunk.
    """

    encoder: EncoderConfig = EncoderConfig()
    width: int = 128
    layers: int = 3
    heads: int = 4
    ratio: float = 2.0
    denoising: Literal["flow", "ddpm"] = "flow"
    train_steps: int = 100
    sample_steps: int = 4


@dataclass(frozen=True)
class PolicyConfig:
    """Everything that fixes a policy's architecture.

    Attributes:
        preset: name of the preset it came from.
        kind: "libra" (two systems), "monolithic" (Libra-Base: one continuous policy of equal
            parameters, without planner head, intents or an encoder of its own), "monolithic_ve"
            (Libra-VE: with that encoder), or another baseline; see `libra_vla.policies.baselines`.
        intents: what the refiner is told of a plan: the likeliest bins ("hard", the paper), or how
            likely each bin is ("soft": the mean of their embeddings).
        granularity: N, bins per action dimension; the paper's Libra Point is 10. From-scratch
            presets take an odd N: most rotation actions are 0, and an even N has an edge there.
        gripper_bins: N of the gripper dimension; None for the same as the others.
        chunk: H, actions per refinement; the paper: 5.
        horizon_factor: M, chunks per plan; the paper: 2.
        image_size: square images in pixels, as the policy receives them.
    """

    preset: str = "custom"
    kind: PolicyKind = "libra"
    intents: Intents = "hard"
    granularity: int = 10
    gripper_bins: int | None = None
    chunk: int = 5
    horizon_factor: int = 2
    image_size: int = 64
    planner: PlannerConfig = PlannerConfig()
    refiner: RefinerConfig = RefinerConfig()

    def __post_init__(self) -> None:
        for name in ("chunk", "horizon_factor", "image_size"):
            if getattr(self, name) < 1:
                raise LibraError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.granularity < 2:
            raise LibraError(f"granularity is {self.granularity}: expected at least 2 bins")

    @property
    def macro_horizon(self) -> int:
        """L = M x H, coarse actions per plan."""
        return self.horizon_factor * self.chunk


T = TypeVar("T")


def to_json(config: Any) -> dict[str, Any]:
    """Returns a dataclass as plain JSON values."""
    return asdict(config)


def from_json(cls: type[T], value: dict[str, Any], *, where: str = "configuration") -> T:
    """Builds a dataclass from JSON, strictly: unknown fields and wrong choices are errors.

    Raises:
        LibraError: naming the field and, where there is one, its nearest match.
    """
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]  # pyright: ignore[reportArgumentType]
    arguments: dict[str, Any] = {}
    for name, item in value.items():
        if name not in known:
            raise unknown(f"field of {where}", name, known)
        hint = hints[name]
        if is_dataclass(hint) and isinstance(item, dict):
            item = from_json(hint, item, where=f"{where}.{name}")  # pyright: ignore
        elif isinstance(item, list):
            item = tuple(item)
        elif (choices := get_args(hint)) and all(isinstance(c, str) for c in choices):
            if item not in choices:
                raise unknown(f"{where}.{name}", item, choices)
        elif hint in (int, float, str, bool) and not isinstance(item, (hint, int)):
            raise LibraError(f"{where}.{name} is {item!r}: expected {hint.__name__}")
        arguments[name] = item
    return cls(**arguments)


def defaults_of(cls: type) -> dict[str, Any]:
    """Returns a dataclass's plain defaults: what a run was made with that an older version wrote,
    before the field existed."""
    return {f.name: f.default for f in fields(cls) if f.default is not MISSING}


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("libra_vla") / "presets"
    return sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name != "__init__.py")


def load_preset(name: str) -> PolicyConfig:
    """Reads a preset.

    Raises:
        LibraError: unknown preset, with the nearest match.
    """
    if name not in (names := preset_names()):
        raise unknown("preset", name, names)
    file = resources.files("libra_vla") / "presets" / f"{name}.json"
    value = json_from_text(file.read_text(encoding="utf-8"), where=f"preset '{name}'")
    return replace(from_json(PolicyConfig, value, where=f"preset '{name}'"), preset=name)
