"""In how many bits a network is computed while it learns; its weights are always float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from libra_vla.training.config import Precision


def bfloat16_is_native(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster there than in float32.

    A CPU without instructions for them emulates them: on one with AVX2 alone, Muon's took 86 % of a
    training step. A torch that cannot tell what its CPU has counts as one without.
    """
    if device.type != "cpu":
        return True
    can = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(can.get("avx512_bf16", False))


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Matrix products in bfloat16 where asked; sums, norms and losses stay in float32."""
    if precision == "fp32":
        yield
        return
    with torch.autocast(device.type, torch.bfloat16):
        if device.type != "cpu":
            yield
            return
        # torch's fused attention for CPUs takes four times as long backwards in bfloat16.
        with sdpa_kernel(SDPBackend.MATH):
            yield
