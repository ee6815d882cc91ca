"""The attention kernels as they are compiled: for a target, a type, a head_dim and features."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from compiled import TARGETS, Facts, compile_kernel

from fastbert.kernels.attention_backward import attention_backward_k, attention_backward_q
from fastbert.kernels.attention_forward import attention_forward
from fastbert.kernels.configurations import Configuration, architecture, configuration, float32_precision, padded

KERNELS = {"forward": attention_forward, "backward_q": attention_backward_q, "backward_k": attention_backward_k}
ITEMSIZE = {"fp32": 4, "bf16": 2, "fp16": 2}
FEATURES = ("causal", "window", "dropout", "packed", "padding", "dlse")


@dataclass(frozen=True)
class Variant:
    """A kernel for a target, a type, a head_dim and the features that change its code."""

    kernel: str
    target: str
    dtype: str
    head_dim: int
    features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.kernel, self.target, self.dtype, str(self.head_dim), *self.features))

    @property
    def function(self) -> Any:
        return KERNELS[self.kernel]

    @property
    def configuration(self) -> Configuration:
        target = TARGETS[self.target]
        row = architecture(target.backend, target.arch)
        return configuration(self.kernel, row, ITEMSIZE[self.dtype], padded(self.head_dim))

    def constants(self) -> dict[str, Any]:
        """The values that are compiled in."""
        target = TARGETS[self.target]
        tiles = self.configuration
        absent = []
        if "packed" not in self.features:
            absent += ["cu_seqlens_q", "cu_seqlens_k"]
        if "padding" not in self.features:
            absent.append("key_padding_mask")
        if "dropout" not in self.features:
            absent.append("rng")
        if "dlse" not in self.features:
            absent.append("dlse")
        return {name: None for name in absent if name in self.function.arg_names} | {
            "has_left": "window" in self.features,
            "has_right": "window" in self.features or "causal" in self.features,
            "head_dim": self.head_dim,
            "dim": padded(self.head_dim),
            "precision": float32_precision(architecture(target.backend, target.arch)),
            "block_q": tiles.block_q,
            "block_k": tiles.block_k,
        }

    def type_of(self, name: str) -> str:
        """An argument's type, as a launch would find it."""
        if name in ("q", "k", "v", "out", "dout", "dq", "dk", "dv"):
            return f"*{self.dtype}"
        others = {
            "lse": "*fp32",
            "dlse": "*fp32",
            "delta": "*fp32",
            "cu_seqlens_q": "*i32",
            "cu_seqlens_k": "*i32",
            "key_padding_mask": "*u8",
            "rng": "*i64",
            "scale": "fp32",
        }
        return others.get(name, "i32")


@cache
def compiled(variant: Variant) -> Facts:
    """What comes out of the compilers."""
    function, tiles = variant.function, variant.configuration
    types = {name: variant.type_of(name) for name in function.arg_names}
    return compile_kernel(
        function,
        variant.target,
        types,
        variant.constants(),
        [name for name, t in types.items() if t.startswith("*") or name.endswith(("_batch", "_row", "_head"))],
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        enable_fp_fusion=True,
    )


def feature_sets(kernel: str) -> list[tuple[str, ...]]:
    """All combinations; a window is a band with both edges, so it does not come with causal."""
    own = [x for x in FEATURES if x != "dlse" or kernel == "backward_q"]
    sets = (x for n in range(len(own) + 1) for x in itertools.combinations(own, n))
    # Key padding is for dense calls.
    return [x for x in sets if not {"causal", "window"} <= set(x) and not {"packed", "padding"} <= set(x)]


def report() -> Iterator[str]:
    """The table's lines, in Markdown: training's case (causal, dropout, packed), and the usual head_dim's plain one."""
    yield "| target | type | head_dim | features | kernel | tile | warps | stages | registers | spill | shared | by |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    training = ("causal", "dropout", "packed")
    shapes = ((64, ()), (64, training), (128, training), (256, training))
    for target, dtype, (head_dim, features), kernel in itertools.product(TARGETS, ("bf16", "fp32"), shapes, KERNELS):
        variant = Variant(kernel, target, dtype, head_dim, features)
        facts, tiles = compiled(variant), variant.configuration
        cells = (
            target,
            dtype,
            head_dim,
            ", ".join(features) or "none",
            kernel,
            f"{tiles.block_q} x {tiles.block_k}",
            tiles.num_warps,
            tiles.num_stages,
            facts.registers,
            facts.spilled,
            facts.shared,
            facts.matrix,
        )
        yield "| " + " | ".join(map(str, cells)) + " |"
