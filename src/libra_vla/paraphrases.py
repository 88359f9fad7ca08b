"""Other words for an instruction, so that a policy reads more than one wording of a task.

An instruction is a chain of clauses ("pick up X", "place it P"); each kind of clause has a row of
equivalents in `CLAUSES`. Paraphrase k takes the k-th equivalent of every clause, joined by the k-th
connective. The names of things stay as they are: they tell the tasks of a suite apart.
"""

import re
from functools import cache

from libra_vla.errors import LibraError

HELD_OUT = 0
"""The paraphrase that training never draws: its verbs are new to a policy that is tested on it."""

PUT = (
    "set {x} down {p}",
    "place {x} {p}",
    "put {x} {p}",
    "move {x} {into}",
    "leave {x} {p}",
    "rest {x} {p}",
)
CLAUSES = (
    (r"pick up (?P<x>.+)", ("grasp {x}", "grab {x}", "take {x}", "lift {x}", "seize {x}")),
    (r"(?:put|place) (?P<x>.+?) (?P<p>(?:on|in|inside|to|under)\b.*)", PUT),
    (
        r"stack (?P<x>.+?) on (?P<y>.+)",
        (
            "pile {x} onto {y}",
            "place {x} on top of {y}",
            "put {x} on {y}",
            "rest {x} on {y}",
            "move {x} onto {y}",
        ),
    ),
    (
        r"push (?P<x>.+?) to (?P<y>.+)",
        (
            "shove {x} to {y}",
            "slide {x} to {y}",
            "move {x} to {y} by pushing it",
            "push {x} over to {y}",
            "push {x} until it is at {y}",
        ),
    ),
    (
        r"open (?P<x>.+)",
        (
            "get {x} open",
            "pull {x} open",
            "pull open {x}",
            "open up {x}",
            "make sure that {x} is open",
        ),
    ),
    (
        r"close (?P<x>.+)",
        (
            "get {x} shut",
            "shut {x}",
            "push {x} shut",
            "push {x} closed",
            "make sure that {x} is closed",
        ),
    ),
    (
        r"turn on (?P<x>.+)",
        ("start {x}", "switch on {x}", "switch {x} on", "turn {x} on", "make sure that {x} is on"),
    ),
    (
        r"turn off (?P<x>.+)",
        (
            "stop {x}",
            "switch off {x}",
            "switch {x} off",
            "turn {x} off",
            "make sure that {x} is off",
        ),
    ),
)
"""Pattern of a clause -> its equivalents; {into} is the place {p} as the end of a motion."""
CONNECTIVES = (", and afterwards ", ", then ", " and then ", " and ", "; then ")
VERBS = ("pick", "put", "place", "stack", "push", "open", "close", "turn")
_NEXT_CLAUSE = re.compile(rf" and (?=(?:{'|'.join(VERBS)}) )")


@cache
def paraphrases(instruction: str) -> tuple[str, ...]:
    """Returns other wordings of an instruction, at least four; none for a task of unknown form.

    None of them is the instruction itself; number `HELD_OUT` is for evaluation.
    """
    rows = [_equivalents(clause) for clause in _NEXT_CLAUSE.split(instruction)]
    if not all(rows):
        return ()
    count = min(map(len, rows))
    return tuple(
        CONNECTIVES[k % len(CONNECTIVES)].join(row[k] for row in rows) for k in range(count)
    )


def paraphrase(instruction: str, number: int) -> str:
    """Returns one paraphrase.

    Raises:
        LibraError: there is none of that number.
    """
    known = paraphrases(instruction)
    if not 0 <= number < len(known):
        raise LibraError(
            f"'{instruction}' has no paraphrase {number}: "
            + (f"expected 0 to {len(known) - 1}" if known else "its form is unknown")
        )
    return known[number]


def _equivalents(clause: str) -> list[str]:
    """Other words for one clause."""
    for pattern, equivalents in CLAUSES:
        if found := re.fullmatch(pattern, clause):
            words = found.groupdict()
            place = words.get("p") or ""
            words["into"] = re.sub(r"^(in|on)(?= )(?! top)", r"\1to", place)
            return [text for e in equivalents if (text := e.format(**words)) != clause]
    return []
