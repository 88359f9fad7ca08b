"""Command lines to frozen dataclasses: tyro does it, and every mistake is one clear line."""

import contextlib
import inspect
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import groupby
from typing import TypeVar, get_type_hints

import tyro

from libra_vla.cli import HelpWanted
from libra_vla.errors import LibraError, unknown

T = TypeVar("T")


def parse(config: type[T], arguments: Sequence[str], *, command: str) -> T:
    """Builds `config`, a dataclass, from the words after `libra COMMAND`.

    Raises:
        LibraError: an option is unknown (with its nearest match), missing or has a bad value.
        HelpWanted: `--help` was given.
    """
    # Of the terminal's own encoding, which decides how tyro draws.
    said = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding)
    complained = io.StringIO()
    try:
        if {"-h", "--help"} & set(arguments):
            for part in filter(is_dataclass, config.__mro__):
                part.__doc__ = _one_by_one(inspect.cleandoc(part.__doc__ or ""))
        else:
            _check_names(config, arguments, command)
        with contextlib.redirect_stderr(complained), contextlib.redirect_stdout(said):
            return tyro.cli(
                config,
                prog=f"libra {command}",
                args=arguments,
                config=(
                    tyro.conf.DisallowNone,
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.PositionalMetavarFromFieldName,
                ),
            )
    except SystemExit as stop:
        if not stop.code:
            said.seek(0)
            raise HelpWanted(said.read().rstrip()) from None
        wrong = _first_section(complained.getvalue())
        raise LibraError(f"{wrong}; see libra {command} --help") from None


def _one_by_one(docstring: str) -> str:
    """Attributes that a docstring explains together, "a, b: of c", each with the explanation: tyro
    looks every option up by its own name."""
    together = re.compile(r"^    (\w+(?:, *\n? *\w+)+):((?:.*\n)(?: {8}.*\n)*)", re.MULTILINE)
    return together.sub(
        lambda m: "".join(f"    {name}:{m[2]}" for name in re.split(r",\s*", m[1])),
        docstring + "\n",
    )


def _check_names(config: type, arguments: Sequence[str], command: str) -> None:
    """Names unknown and missing options: tyro would draw a box of many lines around them."""
    hints = get_type_hints(config, include_extras=True)
    options = {
        ("--no-" if f.default is True else "--") + f.name.replace("_", "-"): f
        for f in fields(config)
        if tyro.conf.Positional not in getattr(hints[f.name], "__metadata__", ())
    }
    given = {
        word.partition("=")[0].partition(".")[0].replace("_", "-")
        for word in arguments
        if word.startswith("--")
    }
    for name in sorted(given - set(options)):
        raise unknown(f"option of libra {command}", name, options)
    missing = [
        name
        for name, f in options.items()
        if f.default is MISSING and f.default_factory is MISSING and name not in given
    ]
    if missing:
        raise LibraError(f"libra {command} needs {', '.join(missing)}; see libra {command} --help")


def _first_section(box: str) -> str:
    """What went wrong, out of the box that tyro draws: title, rule, sections between rules."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]
    sections = groupby(lines, key=lambda line: bool(line.strip("─-")))
    text = next((" ".join(words) for is_text, words in sections if is_text), box)
    return text.removeprefix("Error ").rstrip(".")
