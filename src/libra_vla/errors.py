"""The one exception that means "the input is wrong": its text is shown to the user as it stands."""

from collections.abc import Iterable
from difflib import get_close_matches

LISTED = 16
"""Known names that an error lists at most."""


class LibraError(Exception):
    """Bad input. The message is one line: what was wrong, what was expected, what to do.

    The command line prints it on stderr and exits with code 2.
    """


def unknown(kind: str, name: object, known: Iterable[object]) -> LibraError:
    """Returns the error for a `name` that is none of `known`, with the nearest match first."""
    names = [str(k) for k in known]
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return LibraError(f"unknown {kind} '{name}': {hint}known: {', '.join(names[:LISTED])}{more}")
