"""What a policy returned is looked at before it is used."""

import numpy as np

from libra_vla.action_space import ActionSpace
from libra_vla.errors import LibraError
from libra_vla.execution.protocol import Plan


def checked_plan(plan: Plan, space: ActionSpace, *, step: int, horizon: int) -> Plan:
    """Raises LibraError unless `plan` fills the horizon with bins that exist."""
    coarse = np.asarray(plan.coarse)
    if plan.observation_step != step:
        raise LibraError(
            f"policy planned for control step {plan.observation_step} at step {step}: "
            "plan() must pass its observation's step on"
        )
    if coarse.ndim != 2 or coarse.shape[1] != space.size or len(coarse) < horizon:
        raise LibraError(
            f"policy planned coarse actions {list(coarse.shape)}: expected at least "
            f"[{horizon}, {space.size}]"
        )
    if (coarse < 0).any() or (coarse >= np.asarray(space.bins)).any():
        raise LibraError(f"policy planned bins that do not exist: expected 0 <= c < {space.bins}")
    return plan


def checked_actions(
    actions: np.ndarray, space: ActionSpace, *, chunk: int, step: int, finite: bool
) -> np.ndarray:
    """Returns float32 [H, D]; raises LibraError for another shape, or (`finite`) NaN or infinity.

    Args:
        step: control step of the first action, for the message.
    """
    actions = np.asarray(actions, dtype=np.float32)
    if actions.shape != (chunk, space.size):
        raise LibraError(
            f"policy returned actions {list(actions.shape)}: expected [{chunk}, {space.size}]"
        )
    if finite and not np.isfinite(actions).all():
        row, column = np.argwhere(~np.isfinite(actions))[0]
        raise LibraError(
            f"policy returned {actions[row, column]} for '{space.convention.names[column]}' "
            f"at control step {step + row}: actions must be finite"
        )
    return actions
