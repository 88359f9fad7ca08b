"""The policy that a training begins with: a new one that fits the data, or another run's."""

from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.config import PolicyConfig, load_preset
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.observation import ObservationSpec
from libra_vla.policies.policy import LibraPolicy, StateStatistics
from libra_vla.training.config import TrainConfig
from libra_vla.training.stills import things_of
from libra_vla.versions import versions


def build_policy(
    config: TrainConfig, dataset: LeRobotDataset, stills: LeRobotDataset | None = None
) -> tuple[LibraPolicy, list[int], list[int]]:
    """Returns the policy to train, and its training and held-out episodes.

    Args:
        stills: what its planner is to learn to tell places from.

    Raises:
        LibraError: unknown preset, a dataset without a convention, with too few episodes or where
            nothing moves, or a policy to start from that does not fit the dataset.
    """
    if dataset.convention is None:
        raise LibraError(
            f"{dataset.path} does not say what its actions mean: add meta/libra_vla.json with an "
            "action convention (see docs: your own data)"
        )
    told = None if stills is None else things_of(stills)
    if not dataset.actions.any():
        raise LibraError(
            f"nothing moves in {dataset.path}, all its actions are 0: give stills as --stills, "
            "beside demonstrations"
        )
    left_out = episodes_named(config.leave_out, len(dataset.episodes))
    training, held_out = split(config, len(dataset.episodes), left_out)
    record = {
        "preset": config.preset,
        "seed": config.seed,
        "dataset": {
            "name": dataset.path.name,
            "fingerprint": dataset.fingerprint,
            "episodes": len(training),
            "left_out": sorted(left_out),
            "instructions": list(dataset.tasks),
        },
        "versions": versions(),
    }
    if stills is not None:
        record["stills"] = {
            "name": stills.path.name,
            "fingerprint": stills.fingerprint,
            "scenes": len(stills.episodes),
        }
    if config.init is None:
        policy = _new(config, dataset, dataset.convention, record, told)
    else:
        policy = _begun(config, config.init, dataset, dataset.convention, record, told)
    return policy, training, held_out


def split(
    config: TrainConfig, episodes: int, left_out: Set[int] = frozenset()
) -> tuple[list[int], list[int]]:
    """Returns the episodes to train on and those held out, of so many; some may be neither.

    Raises:
        LibraError: none is left to train on.
    """
    drawn = np.random.default_rng(config.split_seed).permutation(episodes).tolist()
    order = [number for number in drawn if number not in left_out]
    held = round(config.validation * len(order))
    if held == len(order):
        raise LibraError("no episodes are left to train on: lower --validation, or leave fewer out")
    return sorted(order[held:]), sorted(order[:held])


def episodes_named(text: str, episodes: int) -> Set[int]:
    """The numbers that a text such as "3,17,40-52" stands for; none for an empty one.

    Raises:
        LibraError: it is no such text, or the dataset has no such episode.
    """
    named: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()):
            raise LibraError(f"leave_out has '{part}': expected numbers such as '3,17,40-52'")
        low, high = int(first), int(last or first)
        if not low <= high < episodes:
            raise LibraError(
                f"leave_out has '{part.strip()}', but the episodes are 0 to {episodes - 1}"
            )
        named |= set(range(low, high + 1))
    return named


def _architecture(config: TrainConfig) -> PolicyConfig:
    """The preset, with what the command line changed of it."""
    names = ("granularity", "gripper_bins", "horizon_factor", "image_size", "intents")
    changed = {name: value for name in names if (value := getattr(config, name)) is not None}
    return replace(load_preset(config.preset), **changed)


def _new(
    config: TrainConfig,
    dataset: LeRobotDataset,
    convention: ActionConvention,
    record: dict[str, Any],
    told: tuple[tuple[str, ...], int] | None,
) -> LibraPolicy:
    architecture = with_places(_architecture(config), told)
    return LibraPolicy(
        config=architecture,
        action_space=ActionSpace.fit(
            dataset.actions,
            convention,
            bins=architecture.granularity,
            gripper_bins=architecture.gripper_bins,
            normalisation=config.normalisation,
        ),
        observation_spec=ObservationSpec(
            cameras=() if config.blind else dataset.cameras, state_size=dataset.states.shape[1]
        ),
        state_statistics=StateStatistics.fit(dataset.states),
        training=record,
    )


def with_places(config: PolicyConfig, told: tuple[tuple[str, ...], int] | None) -> PolicyConfig:
    """The same architecture, but that its planner tells places, if stills are to teach it.

    Raises:
        LibraError: there is no planner, or nothing to teach one that plans by places.
    """
    if told is None:
        if not config.planner.sees and not config.planner.things:
            raise LibraError(
                f"preset '{config.preset}' plans by places, which stills teach: add --stills"
            )
        return config
    if config.kind != "libra":
        raise LibraError(f"stills teach a planner, and '{config.kind}' has none: leave them out")
    things, asked = told
    return replace(config, planner=replace(config.planner, things=things, asked=asked))


def _begun(
    config: TrainConfig,
    folder: Path,
    dataset: LeRobotDataset,
    convention: ActionConvention,
    record: dict[str, Any],
    told: tuple[tuple[str, ...], int] | None,
) -> LibraPolicy:
    """Another run's policy, with its normalisation, if it fits the dataset.

    One that tells no places, or others, gets a head for them, and one that is to grow becomes what
    the preset says, but for the places that it tells already; weights that do not fit are new.
    """
    policy = LibraPolicy.from_pretrained(folder)
    grown = _architecture(config) if config.grow else policy.config
    if told is None and grown.kind == "libra" and (planner := policy.config.planner).things:
        told = planner.things, planner.asked
    grown = with_places(grown, told)
    if grown != policy.config:
        before = policy
        policy = replace(before, config=grown)
        fresh, known = policy.model.state_dict(), before.model.state_dict()
        fits = {n: w for n, w in known.items() if n in fresh and fresh[n].shape == w.shape}
        policy.model.load_state_dict(fresh | fits)
    policy.action_space.convention.require_equal(
        convention, mine=str(folder), theirs=str(dataset.path)
    )
    spec, size = policy.observation_spec, dataset.states.shape[1]
    if (missing := set(spec.cameras) - set(dataset.cameras)) or spec.state_size != size:
        lacks = f"lacks camera {', '.join(sorted(missing))}" if missing else f"has {size} numbers"
        raise LibraError(
            f"{dataset.path} {lacks}: {folder} reads {', '.join(spec.cameras) or 'no camera'} and "
            f"{spec.state_size} numbers of proprioception"
        )
    init = {"checkpoint": policy.checkpoint_hash, "steps": policy.training.get("steps")}
    record |= {"preset": policy.config.preset, "init": init}
    # One that learns only to look still plans and acts as it learned from other demonstrations.
    policy.training = {**policy.training, "looks": record} if config.only_looks else record
    return policy
