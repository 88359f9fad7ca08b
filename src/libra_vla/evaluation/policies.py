"""Where an evaluation gets its policy from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from libra_vla.execution.protocol import Policy


class DescribedPolicy(Policy, Protocol):
    """A policy that can say what it is."""

    def describe(self) -> dict[str, Any]:
        """Returns preset, parameters, N, M, H and checkpoint hash, as JSON values."""
        ...


LoadPolicy = Callable[[Path | str, str], DescribedPolicy]
"""(folder, or its name, device) -> policy; a function of a module, so that workers find it."""


def load_policy(folder: Path | str, device: str) -> DescribedPolicy:
    """Loads what `libra train --out` wrote."""
    from libra_vla.policies import load_policy

    return load_policy(folder, device=device)
