"""The kernels over rows of activations as they are compiled: for a target, a type, a width and features."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from compiled import TARGETS, Facts, compile_kernel

from fastbert.kernels.bias_gelu import bias_gelu_backward, bias_gelu_forward
from fastbert.kernels.configurations import class_block, contracts, row_tile
from fastbert.kernels.cross_entropy import cross_entropy_backward, cross_entropy_forward
from fastbert.kernels.dropout_add import dropout_add
from fastbert.kernels.layer_norm import layer_norm_backward, layer_norm_forward

# Kernel -> what can be asked of it.
FEATURES: dict[Any, tuple[str, ...]] = {
    dropout_add: ("residual",),
    bias_gelu_forward: ("tanh",),
    bias_gelu_backward: ("tanh",),
    layer_norm_forward: ("dropout", "sum"),
    layer_norm_backward: ("dropout", "sum"),
    cross_entropy_forward: (),
    cross_entropy_backward: (),
}
KERNELS = {kernel.__name__: kernel for kernel in FEATURES}
ACTIVATIONS = ("x", "residual", "out", "total", "dout", "dtotal", "dx", "dresidual", "logits", "dlogits")
FLOATS = ("bias", "dbias", "weight", "dweight", "mean", "rstd", "losses", "dlosses", "largest", "log_rest")


@dataclass(frozen=True)
class RowVariant:
    """A kernel for a target, a type, a number of columns (or classes) and the features that change its code."""

    kernel: str
    target: str
    dtype: str
    columns: int
    features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.kernel, self.target, self.dtype, str(self.columns), *self.features))

    @property
    def function(self) -> Any:
        return KERNELS[self.kernel]

    def tile(self) -> tuple[dict[str, int], int]:
        """The sizes that are compiled in, and the warps."""
        if self.kernel.startswith("cross_entropy"):
            block, num_warps = class_block(self.columns)
            return {"block": block}, num_warps
        tile = row_tile(self.columns, whole=self.kernel.startswith("layer_norm"))
        return {"block_rows": tile.rows, "block_columns": tile.columns}, tile.num_warps

    def constants(self) -> dict[str, Any]:
        """The values that are compiled in."""
        absent = []
        if self.kernel == "dropout_add" and "residual" not in self.features:
            absent.append("residual")
        if self.kernel.startswith("layer_norm"):
            if "dropout" not in self.features:
                absent += ["rng", "dx"]
            absent += ["x", "residual"] if "sum" in self.features and self.kernel.endswith("backward") else []
            absent += [] if "sum" in self.features else ["total", "dtotal"]
        if self.kernel.startswith("bias_gelu"):
            return {"tanh": "tanh" in self.features} | self.tile()[0]
        return {name: None for name in absent if name in self.function.arg_names} | self.tile()[0]

    def type_of(self, name: str) -> str:
        """An argument's type, as a launch would find it."""
        if name in ACTIVATIONS:
            return f"*{self.dtype}"
        if name in FLOATS:
            return "*fp32"
        return {"targets": "*i64", "rng": "*i64", "survivor_scale": "fp32", "eps": "fp32"}.get(name, "i32")


@cache
def compiled(variant: RowVariant) -> Facts:
    """What comes out of the compilers."""
    function = variant.function
    types = {name: variant.type_of(name) for name in function.arg_names}
    unknown = {param.name for param in function.params if param.do_not_specialize_on_alignment}
    divisible = [name for name, t in types.items() if t.startswith("*") and name not in unknown]
    divisible += ["columns", "classes"] if variant.columns % 16 == 0 else []
    return compile_kernel(
        function,
        variant.target,
        types,
        variant.constants(),
        divisible,
        num_warps=variant.tile()[1],
        enable_fp_fusion=contracts(function.__module__.rpartition(".")[2]),
    )


def feature_sets(kernel: str) -> list[tuple[str, ...]]:
    """All combinations."""
    own = FEATURES[KERNELS[kernel]]
    return [x for n in range(len(own) + 1) for x in itertools.combinations(own, n)]


def report() -> Iterator[str]:
    """The table's lines, in Markdown: bfloat16 with all features, at widths of BERT-base."""
    yield "| target | kernel | features | columns | tile | warps | registers | spill | shared |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for target, kernel in itertools.product(TARGETS, KERNELS):
        columns = 30522 if kernel.startswith("cross") else 3072 if kernel.startswith("bias") else 768
        variant = RowVariant(kernel, target, "bf16", columns, feature_sets(kernel)[-1])
        facts, (sizes, num_warps) = compiled(variant), variant.tile()
        cells = (
            target,
            kernel,
            ", ".join(variant.features) or "none",
            columns,
            " x ".join(map(str, sizes.values())),
            num_warps,
            facts.registers,
            facts.spilled,
            facts.shared,
        )
        yield "| " + " | ".join(map(str, cells)) + " |"
