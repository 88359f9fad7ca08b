"""A planner in a process of its own: it shares no interpreter with the control loop, and may die.

The child is started anew, not forked, and loads a policy of its own; what passes between the two
are bytes (see `wire`). Run as a module, this file is that child.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from libra_vla.execution.planners import Planner
from libra_vla.execution.protocol import Plan
from libra_vla.execution.wire import (
    LIMIT,
    pack,
    pack_observation,
    pack_plan,
    unpack_observation,
    unpack_plan,
)
from libra_vla.observation import Observation

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ProcessPlanner:
    """Plans in a child process. If that dies, or takes too long, the next call starts another.

    Args:
        load: a module's function that returns what plans.
        arguments: of `load`, as JSON values.
        timeout: seconds that a plan may take; the child is killed after them.
        start_timeout: seconds that the child may take to load.
        threads: of the child's numerical libraries.
    """

    def __init__(
        self,
        load: Callable[..., Planner],
        arguments: Sequence[Any] = (),
        *,
        timeout: float = 30.0,
        start_timeout: float = 300.0,
        threads: int = 1,
    ) -> None:
        self._load = f"{load.__module__}:{load.__qualname__}"
        self._arguments, self._threads = json.dumps(list(arguments)), threads
        self._timeout, self._start_timeout = timeout, start_timeout
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The child's, while it runs."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def plan(self, observation: Observation) -> Plan:
        """Returns the child's plan.

        Raises:
            ConnectionError: the child died, or this planner is closed.
            TimeoutError: it took too long.
            RuntimeError: planning, or loading the policy, raised there.
        """
        pipe = self._pipe or self._start()
        try:
            pipe.send_bytes(pack_observation(observation))
        except OSError:
            raise self._lost() from None
        return unpack_plan(self._receive(pipe, self._timeout))

    def close(self) -> None:
        """Ends the child."""
        self._closed = True
        self._end()

    def _start(self) -> Connection:
        if self._closed:
            raise ConnectionError("the planner was closed")
        mine, theirs = socket.socketpair()
        with theirs:
            environment = os.environ | dict.fromkeys(THREADS, str(self._threads))
            environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), self._load, self._arguments],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the parent's to decide on
            )
        self._pipe = Connection(mine.detach())
        pipe = self._pipe
        if failure := self._receive(pipe, self._start_timeout):
            self._end()
            unpack_plan(failure)  # raises what loading raised
        return pipe

    def _receive(self, pipe: Connection, timeout: float) -> bytes:
        try:
            if pipe.poll(timeout):
                return pipe.recv_bytes(LIMIT)
        except (EOFError, OSError):
            raise self._lost() from None
        self._end()
        raise TimeoutError(f"the planner process gave no answer within {timeout:g} s")

    def _lost(self) -> ConnectionError:
        code = self._end()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return ConnectionError(f"the planner process died ({how})")

    def _end(self) -> int | None:
        """Ends what is left of the child and returns its exit code."""
        child, pipe, self._child, self._pipe = self._child, self._pipe, None, None
        if pipe is not None:
            pipe.close()
        if child is None:
            return None
        try:
            return child.wait(0.5)  # it leaves by itself when its pipe is closed
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return -signal.SIGKILL


def serve(descriptor: int, load: str, arguments: str) -> None:
    """What the child does: plans, until the parent closes the pipe, or dies."""
    pipe = Connection(descriptor)
    try:
        module, _, name = load.partition(":")
        planner: Planner = getattr(import_module(module), name)(*json.loads(arguments))
        pipe.send_bytes(b"")
        while True:
            pipe.send_bytes(_answer(planner, pipe.recv_bytes(LIMIT)))
    except (EOFError, OSError):
        return
    except Exception as error:
        pipe.send_bytes(_failure(error))


def _answer(planner: Planner, message: bytes) -> bytes:
    try:
        return pack_plan(planner.plan(unpack_observation(message)))
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> bytes:
    first = (str(error).splitlines() or [""])[0]
    return pack({"error": f"{type(error).__name__}: {first}"}, {})


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], sys.argv[3])
