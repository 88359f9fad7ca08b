"""Prints the tables of `libra study suites` as Markdown, for docs/results/libero.md.

python scripts/tables.py runs/suites/study.json
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def main(study: Row) -> None:
    """Arms by suite beside the paper, then task by task, then failures by class."""
    arms: Sequence[Row] = study["arms"]
    suites = list(arms[0]["suites"])
    known = [study["paper"][suite] for suite in suites]
    show(
        ("policy", *suites, "average"),
        [
            *(
                (arm["name"], *map(rate, arm["suites"].values()), share(arm["average"]))
                for arm in arms
            ),
            ("the paper's", *map(share, known), share(sum(known) / len(known))),
        ],
    )
    for suite in suites:
        tasks = [arm["suites"][suite]["tasks"] for arm in arms]
        show(
            (suite, *(arm["name"] for arm in arms)),
            [
                (beside[0]["instruction"], *map(count, beside))
                for beside in zip(*tasks, strict=True)
            ],
        )
    kinds = sorted({kind for arm in arms for kind in arm["failures"]})
    show(
        ("failures", *kinds),
        [(arm["name"], *(arm["failures"].get(kind, 0) for kind in kinds)) for arm in arms],
    )


def show(head: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(map(str, row))} |")
    print()


def rate(row: Row) -> str:
    low, high = (100 * end for end in row["ci95"])
    return f"{count(row)}: {share(row['success_rate'])} [{low:.0f}, {high:.0f}]"


def count(row: Row) -> str:
    return f"{row['successes']} of {row['episodes'] - row['errors']}"


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
