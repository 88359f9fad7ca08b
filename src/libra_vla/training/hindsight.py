"""What a demonstration shows too late is shown in time: when to close or open the gripper."""

from dataclasses import replace

import numpy as np

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError

THERE = 2.0
"""How far from where the gripper moves a robot may be to be there: in each number of proprioception
as many of the dataset's ordinary (mean absolute) changes per step."""
WAITING_SECONDS = 0.25
"""How long it is there at least, if it waits: who comes slowly nearer is not there yet."""


def hastened(dataset: LeRobotDataset) -> LeRobotDataset:
    """The same demonstrations, but that the gripper opens or closes as soon as the robot is where,
    until then, it waits to do so.

    Whoever demonstrates waits to be sure: that the hand is there, or comes no nearer. A policy
    that does not remember how long it has waited learns to wait, and where it never quite gets
    there, does so for ever.

    Args:
        dataset: of its actions [T, D] only the gripper's column changes, and neither the dataset
            nor its files do; proprioception [T, S] says where the robot is, in whatever units.

    Raises:
        LibraError: the robot has no gripper.
    """
    convention = dataset.convention
    if convention is None or (gripper := convention.gripper) is None:
        raise LibraError(f"{dataset.path}: the robot has no gripper to hasten: leave out --hasten")
    actions = dataset.actions.copy()
    raw, states = dataset.actions[:, gripper], dataset.states
    closed = raw > (raw.min() + raw.max()) / 2.0
    spans = [span for episode in dataset.episodes for span in episode.spans]
    changes = [np.abs(np.diff(states[span], axis=0)) for span in spans]
    reach = THERE * np.concatenate(changes).mean(axis=0)
    least = round(WAITING_SECONDS * convention.rate_hz)
    for span in spans:
        earliest = span.start
        for moves in span.start + 1 + np.flatnonzero(np.diff(closed[span])):
            away = (np.abs(states[earliest:moves] - states[moves]) > reach).any(axis=1)
            arrived = earliest + int(np.flatnonzero(away).max(initial=-1)) + 1
            if moves - arrived >= least:
                actions[arrived:moves, gripper] = raw[moves]
            earliest = moves
    return replace(dataset, actions=actions)
