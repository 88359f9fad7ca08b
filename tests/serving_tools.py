"""A server in a thread or a process, raw connections to it, and a link that can be cut."""

import asyncio
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from fakes import ScriptedPolicy
from websockets.sync.client import ClientConnection, connect

from libra_vla.execution.protocol import Policy
from libra_vla.serving.codec import pack, unpack
from libra_vla.serving.config import ServeConfig
from libra_vla.serving.served import OneByOne, ServedPolicy
from libra_vla.serving.server import PolicyServer


def request(step: int | None = None, **changes: Any) -> dict[str, Any]:
    """What a client of the scripted policy sends; `changes` name keys with "_" for "/"."""
    message: dict[str, Any] = {
        "observation/image": np.zeros((8, 8, 3), dtype=np.uint8),
        "observation/state": np.zeros(3),
        "prompt": "go there",
    }
    if step is not None:
        message["libra/step"] = step
    return message | changes


@contextmanager
def serving(policy: Policy | ServedPolicy | None = None, **options: Any) -> Iterator[PolicyServer]:
    """Runs a server in a thread of this process."""
    served = policy if hasattr(policy, "plan_many") else OneByOne(policy or ScriptedPolicy())
    server = PolicyServer(served, ServeConfig(Path("none"), **{"port": 0, **options}))
    ready, failed = threading.Event(), []

    def work() -> None:
        try:
            asyncio.run(server.run(ready.set))
        except BaseException as error:
            failed.append(error)
            ready.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(20)
    if failed:
        raise failed[0]
    try:
        yield server
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


class Client:
    """A raw connection: says anything, and hears whatever comes back."""

    def __init__(self, port: int, **options: Any) -> None:
        self.raw: ClientConnection = connect(
            f"ws://127.0.0.1:{port}", compression=None, max_size=None, proxy=None, **options
        ).__enter__()
        self.metadata = unpack(self.raw.recv(timeout=20))

    def ask(self, message: dict[str, Any] | bytes | str) -> dict[str, Any] | str:
        """Returns the answer, or the text of the refusal."""
        self.raw.send(pack(message) if isinstance(message, dict) else message)
        answer = self.raw.recv(timeout=20)
        return answer if isinstance(answer, str) else unpack(answer)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()


class ServerProcess:
    """`libra serve` as a process of its own, of a scripted policy, that can be killed."""

    def __init__(self, port: int = 0, *, role: str = "planner") -> None:
        code = (
            "import asyncio, sys; sys.path.insert(0, sys.argv[1])\n"
            "from collections import deque\n"
            "from pathlib import Path; from fakes import ScriptedPolicy\n"
            "from libra_vla.serving.config import ServeConfig\n"
            "from libra_vla.serving.served import OneByOne\n"
            "from libra_vla.serving.server import PolicyServer\n"
            "config = ServeConfig(Path('none'), port=int(sys.argv[2]), role=sys.argv[3])\n"
            "policy = ScriptedPolicy()\n"
            "policy.calls = deque(maxlen=1)  # else a soak would measure what it remembers\n"
            "server = PolicyServer(OneByOne(policy), config)\n"
            "asyncio.run(server.run(lambda: print(server.port, flush=True), signals=True))\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, os.path.dirname(__file__), str(port), role],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def resident_mib(pid: int | str = "self") -> float:
    """Memory that a process holds, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


class Link:
    """A TCP proxy that can be cut (connections end), stalled (bytes wait) and slowed."""

    def __init__(self, port: int) -> None:
        self.target, self.delay_s = port, 0.0
        self.open, self.flowing = True, threading.Event()
        self.flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.open = False
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def mend(self) -> None:
        self.open = True

    def close(self) -> None:
        self.cut()
        self.flowing.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    if not self.open:
                        raise ConnectionError
                    far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                    far.settimeout(None)
                except OSError:
                    near.close()
                    continue
                self._pairs.append((near, far))
                threading.Thread(target=self._pump, args=(near, far), daemon=True).start()

    def _pump(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while True:
                ready, _, _ = select.select([near, far], [], [], 5.0)
                for source in ready:
                    data = source.recv(1 << 16)
                    if not data:
                        raise OSError
                    self.flowing.wait()
                    time.sleep(self.delay_s)
                    (far if source is near else near).sendall(data)
        for end in (near, far):
            end.close()
