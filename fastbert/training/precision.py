"""What "auto" precision means on this machine."""

from __future__ import annotations

import importlib.util
import logging
from typing import Literal

import torch

from fastbert.training.config import Precision

logger = logging.getLogger(__name__)


def resolve_precision(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """bf16 where the hardware multiplies it natively, else fp32; an explicit choice stands.

    On a CPU that means AVX512-BF16 or AMX. With the former alone, on a Zen 5, steps of a small BERT took a third of
    float32's time; without either bf16 products are emulated, measured eight times slower than float32.
    """
    native = _multiplies_bf16(device)
    if precision == "auto":
        return "bf16" if native else "fp32"
    if precision == "bf16" and not native:
        logger.warning("this %s has no bf16 matrix products: precision fp32 will be several times faster", device.type)
    return precision


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or importlib.util.find_spec("fastbert._C") is None:
        return False
    from fastbert import _C

    return _C.instruction_set() in ("avx512_bf16", "amx")
