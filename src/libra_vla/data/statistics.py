"""LeRobot's statistics: of an episode, and merged over episodes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

Statistics = dict[str, Any]
"""min, max, mean, std, count and `QUANTILES` of one feature, as lists; count is [n]."""


def statistics(values: np.ndarray) -> Statistics:
    """Statistics over the first axis of [n, ...]."""
    result = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0, dtype=np.float64),
        "std": values.std(axis=0, dtype=np.float64),
        "count": np.array([len(values)]),
    }
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    result |= dict(zip(QUANTILES, quantiles, strict=True))
    return {name: value.tolist() for name, value in result.items()}


def image_statistics(frames: np.ndarray) -> Statistics:
    """Per channel of uint8 [n, h, w, 3], in [0, 1], as [[[v]], [[v]], [[v]]].

    Every tenth frame and every fourth pixel of its rows and columns are looked at.
    """
    pixels = frames[::10, ::4, ::4].reshape(-1, 3) / np.float32(255.0)
    shaped = {k: [[[v]] for v in values] for k, values in statistics(pixels).items()}
    return shaped | {"count": [len(frames[::10])]}


def merge_statistics(parts: Sequence[Mapping[str, Statistics]]) -> dict[str, Statistics]:
    """Statistics of the whole from those of its parts, per feature; none give none.

    Exact but for the quantiles, which are averaged, as LeRobot's are; what a part lacks (older
    datasets have no quantiles) is left out.
    """
    common = [f for f in (parts[0] if parts else ()) if all(f in part for part in parts)]
    return {feature: _merge([part[feature] for part in parts]) for feature in common}


def _merge(parts: Sequence[Statistics]) -> Statistics:
    def column(name: str) -> np.ndarray:
        return np.array([part[name] for part in parts], dtype=np.float64)

    count, mean = column("count")[:, 0], column("mean")
    weight = (count / count.sum()).reshape(-1, *[1] * (mean.ndim - 1))
    total = (weight * mean).sum(axis=0)
    variance = (weight * (column("std") ** 2 + (mean - total) ** 2)).sum(axis=0)
    return {
        "min": column("min").min(axis=0).tolist(),
        "max": column("max").max(axis=0).tolist(),
        "mean": total.tolist(),
        "std": np.sqrt(variance).tolist(),
        "count": [int(count.sum())],
        **{
            q: (weight * column(q)).sum(axis=0).tolist()
            for q in QUANTILES
            if all(q in part for part in parts)
        },
    }
