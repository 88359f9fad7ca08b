"""A policy made of two: one's planner before the other's refiner, since the two may be trained side
by side, or the mean of their weights."""

from dataclasses import replace

from libra_vla.errors import LibraError
from libra_vla.policies.policy import LibraPolicy

ALIKE = ("kind", "granularity", "gripper_bins", "chunk", "horizon_factor", "image_size")
"""Fields of the configuration in which both halves have to agree."""
FITTED = ("action_space", "observation_spec", "state_statistics")
"""What a policy has from its data, and keeps when another's training begins with it."""


def averaged(policy: LibraPolicy, other: LibraPolicy) -> LibraPolicy:
    """The policy whose weights are the mean of two, of which one's training began with the other.

    Raises:
        LibraError: they differ in more than their weights.
    """
    for name in ("config", *FITTED):
        if getattr(policy, name) != getattr(other, name):
            raise LibraError(
                f"the two policies differ in their {name.replace('_', ' ')}: only one that was "
                "trained with --init from the other can be averaged with it"
            )
    training = {**policy.training, "averaged_with": other.checkpoint_hash}
    mean = replace(policy, training=training, checkpoint_hash=None)
    mine, theirs = policy.model.state_dict(), other.model.state_dict()
    mean.model.load_state_dict(
        {
            name: (value + theirs[name]) / 2 if value.is_floating_point() else value
            for name, value in mine.items()
        }
    )
    return mean


def joined_halves(planner: LibraPolicy, refiner: LibraPolicy) -> LibraPolicy:
    """A policy with the planner of one and the refiner of another, which is told intents as it was.

    Raises:
        LibraError: they do not fit: other architectures, cameras or normalisation, or a refiner
            that sees through its planner's encoder.
    """
    if planner.config.kind != "libra":
        raise LibraError(f"'{planner.config.kind}' has no planner to put before another's refiner")
    if refiner.config.refiner.encoder.kind == "shared":
        raise LibraError("a refiner that sees through its planner's encoder cannot leave it")
    for name in ALIKE:
        mine, theirs = (getattr(half.config, name) for half in (planner, refiner))
        if mine != theirs:
            raise LibraError(
                f"the planner's {name} is {mine}, the refiner's {theirs}: expected the same"
            )
    for name in FITTED:
        if getattr(planner, name) != getattr(refiner, name):
            raise LibraError(
                f"planner and refiner differ in their {name.replace('_', ' ')}: train one of them "
                "with --init from the other, which keeps it"
            )
    config = replace(planner.config, refiner=refiner.config.refiner, intents=refiner.config.intents)
    record = {k: v for k, v in refiner.training.items() if k != "versions"}
    training = {
        **planner.training,
        "refiner": record | {"checkpoint": refiner.checkpoint_hash},
    }
    policy = replace(planner, config=config, training=training, checkpoint_hash=None)
    ahead, behind = planner.model.state_dict(), refiner.model.state_dict()
    policy.model.load_state_dict(
        {
            name: (ahead if name.startswith("planner.") else behind)[name]
            for name in policy.model.state_dict()
        }
    )
    return policy
