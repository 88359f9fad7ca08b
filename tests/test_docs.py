"""Documentation that drifts from the code breaks here."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from libra_vla.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every `libra ...` line of the documentation's shell blocks."""
    lines = (line for page in PAGES for block in blocks(page, "bash") for line in block.split("\n"))
    return sorted({line for line in lines if line.startswith("libra ")})


@cache
def help_of(command: str) -> str:
    probe = f"import libra_vla.cli as c; c.main({[*command.split(), '--help']!r})"
    return subprocess.check_output([sys.executable, "-c", probe], text=True)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: page.name
)
def test_python_blocks_run(page, tmp_path):
    """The blocks of a page are run in order, as one script, in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks(page, "python"))],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", commands())
def test_shown_commands_know_their_options(line):
    words = shlex.split(line, comments=True)[1:]
    command = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    assert command in COMMANDS
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", help_of(command)), f"{command} has no {option}"


def test_every_command_is_documented():
    text = "".join(page.read_text() for page in PAGES)
    assert [c for c in COMMANDS if f"libra {c}" not in text and c != "quickstart"] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_make_targets_that_are_shown_exist():
    makefile = (ROOT / "Makefile").read_text()
    pages = [*PAGES, ROOT / "CONTRIBUTING.md"]
    shown = {t for page in pages for t in re.findall(r"\bmake ([a-z-]+)", page.read_text())}
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony and shown & set(phony[1].split()) >= {"quickstart", "test", "check"}
