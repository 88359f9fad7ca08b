"""A cable between two network namespaces that is slow and loses packets, without kernel modules."""

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from itertools import count

TUNSETIFF, TAP_WITHOUT_HEADER = 0x400454CA, 0x0002 | 0x1000


class LossyLink:
    """Ethernet frames from either end arrive at the other after a while, or never.

    The ends are TAP devices `ENDa` and `ENDb` with addresses 10.213.7.1 and 10.213.7.2, each in a
    namespace of its own, `NAME-a` and `NAME-b`.

    Args:
        name: of the namespaces and devices, at most 14 letters.
        delay: seconds each way, the shortest and the longest.
        loss: share of the frames that never arrive.

    Raises:
        OSError, CalledProcessError: this is not root on Linux, or the kernel lacks something.
    """

    def __init__(self, name: str, *, delay: tuple[float, float], loss: float) -> None:
        self.name, self.delay, self.loss = name, delay, loss
        self.carried = self.lost = 0
        self.random = random.Random(0)
        self.ends: list[int] = []
        self.closed = threading.Event()
        self.carrier = threading.Thread(target=self._carry, daemon=True)
        try:
            for host, end in enumerate("ab", start=1):
                self._end(f"{name}{end}", f"{name}-{end}", f"10.213.7.{host}/30")
        except BaseException:
            self.close()
            raise
        self.carrier.start()

    def _end(self, device: str, namespace: str, address: str) -> None:
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self.ends.append(end)
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", device.encode(), TAP_WITHOUT_HEADER))
        for words in (
            f"netns add {namespace}",
            f"link set {device} netns {namespace}",
            f"-n {namespace} addr add {address} dev {device}",
            f"-n {namespace} link set {device} up",
            f"-n {namespace} link set lo up",
        ):
            subprocess.run(["ip", *words.split()], check=True, capture_output=True)

    def up(self, is_up: bool) -> None:
        """Puts the cable in, or pulls it out: whoever sends does not notice."""
        state = "up" if is_up else "down"
        command = ["ip", "-n", f"{self.name}-a", "link", "set", f"{self.name}a", state]
        subprocess.run(command, check=True)

    def _carry(self) -> None:
        under_way: list[tuple[float, int, int, bytes]] = []
        number = count()
        while not self.closed.is_set():
            soonest = under_way[0][0] - time.monotonic() if under_way else 0.1
            for end in select.select(self.ends, [], [], max(0.0, min(soonest, 0.1)))[0]:
                frame, other = self._read(end), self.ends[end == self.ends[0]]
                if self.random.random() < self.loss:
                    self.lost += 1
                elif frame:
                    due = time.monotonic() + self.random.uniform(*self.delay)
                    heapq.heappush(under_way, (due, next(number), other, frame))
            while under_way and under_way[0][0] <= time.monotonic():
                self._write(*heapq.heappop(under_way)[2:])

    @staticmethod
    def _read(end: int) -> bytes:
        try:
            return os.read(end, 65536)
        except OSError:  # pulled out
            return b""

    def _write(self, end: int, frame: bytes) -> None:
        try:
            os.write(end, frame)
            self.carried += 1
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Takes everything down again."""
        self.closed.set()
        if self.carrier.ident is not None:
            self.carrier.join()
        for end, where in zip(self.ends, "ab", strict=False):
            subprocess.run(["ip", "netns", "del", f"{self.name}-{where}"], capture_output=True)
            os.close(end)
