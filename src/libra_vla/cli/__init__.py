"""The `libra` command. Thin: it parses, calls and prints; only the chosen command is imported."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

from libra_vla import __doc__ as about
from libra_vla import __version__
from libra_vla.errors import LibraError, unknown

COMMANDS = {
    "quickstart": "demonstrations, training, evaluation and a report, on real LIBERO tasks",
    "collect": "demonstrations by scripted experts, as a LeRobot v3.0 dataset",
    "train": "trains a policy on a dataset",
    "eval": "evaluates a policy under the benchmark's official protocol",
    "study suites": "the paper's first table, from nothing: one policy for all LIBERO suites",
    "study granularity": "success over N, and the N that balance foretells",
    "study components": "what each half brings: Base, VE, Refinement, full",
    "study curriculum": "teacher forcing, the planner's intents, or the dynamic curriculum",
    "study convergence": "a third of the training budget against all of it",
    "study baselines": "other policies of equal size, data and training",
    "study asynchrony": "what a late planner costs, over modes, M and delays",
    "export": "a policy's weights in half precision, to be shipped",
    "serve": "a policy, or its planner alone, behind a websocket (openpi's protocol)",
    "run": "evaluates with the refiner here and the planner on another machine",
    "info": "parameters, FLOPs and memory of a preset or of a trained policy",
    "data info": "what is in a dataset",
    "data merge": "several datasets as one",
    "bench": "speed, side by side",
    "doctor": "what this machine lacks, and the command that mends it",
}
"""Command -> what it does; `libra_vla.cli.commands` has a function for each."""

EXTRAS = {
    "mujoco": "libero",
    "robosuite": "libero",
    "bddl": "libero",
    "libero": "libero",
    "metaworld": "metaworld",
    "transformers": "vlm",
    "websockets": "serve",
    "msgpack": "serve",
    "prometheus_client": "serve",
}
"""Module -> the optional extra that brings it."""

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


class HelpWanted(Exception):
    """`--help` was given to a command; the message is what to print."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    0 means success, 1 that `libra doctor` found a problem (or a bug, with its traceback), 2 bad
    input, 130 stopped by Ctrl-C or SIGTERM.
    """
    try:
        _heed_sigterm()
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except HelpWanted as page:
        return _say(str(page))
    except LibraError as error:
        _complain(f"error: {error}")
        return BAD_INPUT
    except ModuleNotFoundError as error:
        if (extra := EXTRAS.get((error.name or "").split(".")[0])) is None:
            raise
        _complain(f"error: {error.name} is not installed: pip install 'libra-vla[{extra}]'")
        return BAD_INPUT
    except KeyboardInterrupt as stop:
        _complain(str(stop) or "stopped")
        return INTERRUPTED


def _heed_sigterm() -> None:
    """What a scheduler sends before it takes a machine away stops a command as Ctrl-C does."""
    alone = threading.current_thread() is threading.main_thread()
    if alone and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _run(arguments: list[str]) -> int:
    if not arguments:
        print(usage(), file=sys.stderr)
        return BAD_INPUT
    if arguments[0] in ("-h", "--help"):
        return _say(usage())
    if arguments[0] == "--version":
        return _say(f"libra-vla {__version__}")
    for words in (2, 1):
        if (name := " ".join(arguments[:words])) in COMMANDS:
            command = getattr(import_module("libra_vla.cli.commands"), name.replace(" ", "_"))
            text, code = command(arguments[words:])
            return _say(text) or code
    raise unknown("command", arguments[0], COMMANDS)


def usage() -> str:
    """What `libra --help` prints."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {does}" for name, does in COMMANDS.items()]
    return "\n".join(
        [
            "usage: libra COMMAND [OPTIONS]",
            "",
            (about or "").partition("\n")[0],
            "",
            *rows,
            "",
            "`libra COMMAND --help` explains one command, `libra --version` says which this is.",
        ]
    )


def _say(text: str) -> int:
    """Prints to stdout; a reader that has gone away (`libra ... | head`) is no error to report."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more on its way out, and would complain about the pipe then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


def _complain(message: str) -> None:
    """Prints one line to stderr, whatever line breaks the message holds."""
    print(" ".join(message.split()), file=sys.stderr)
