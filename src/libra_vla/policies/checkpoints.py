"""Where a checkpoint lies: a folder, a run that holds one, or one that comes with the package."""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from libra_vla.errors import LibraError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, MANIFEST = "model.safetensors", "policy.json"
SHIPPED = Path(str(resources.files("libra_vla") / "checkpoints"))


def shipped() -> tuple[str, ...]:
    """Names of the policies that come with the package; each can be given in place of a folder."""
    return tuple(sorted(manifest.parent.name for manifest in SHIPPED.glob(f"*/{MANIFEST}")))


def find_checkpoint(place: Path | str) -> Path:
    """Returns the folder of a checkpoint.

    Args:
        place: that folder, the run folder that holds it as `checkpoint/`, or a shipped name.

    Raises:
        LibraError: there is none.
    """
    folder = Path(place)
    for found in (folder, folder / "checkpoint"):
        if (found / MANIFEST).exists():
            return found
    if str(place) in (names := shipped()):
        return SHIPPED / str(place)
    remedy = f", or one of {', '.join(names)}" if names else ""
    raise LibraError(
        f"{folder} holds no policy ({MANIFEST} is missing): give the folder that `libra train "
        f"--out` wrote{remedy}"
    )


def write_tensors(tensors: "Mapping[str, Tensor]", file: Path) -> None:
    """Writes tensors to a safetensors file.

    Raises:
        OSError: what the disk refuses, as everybody else says it: safetensors raises an error of
            its own, with the number in its text.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, file)
    except SafetensorError as error:
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(number[1]), str(error), str(file)) from error
