"""What the tests of the fused element-wise operators share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from definition import elementwise_byte
from problems import assert_close
from torch import Tensor

from fastbert.ops import triton_runtime

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS = (0, 1, 7, 65)
COLUMNS = (1, 15, 16, 17, 384, 1000)
SHAPES = [(rows, columns) for rows in ROWS for columns in COLUMNS] + [(3, 5000)]

Outputs = tuple[Tensor, ...]


def rng() -> Tensor:
    return torch.tensor([-3, 2])


def kept(rows: int, columns: int, site: int, threshold: int) -> Tensor:
    """Which elements dropout keeps under :func:`rng`, from the definition in numpy."""
    found = elementwise_byte(-3, 2, site, np.arange(rows)[:, None], np.arange(columns)[None, :])
    return torch.from_numpy(found >= threshold)


def some_targets(rows: int, classes: int) -> Tensor:
    """Every third is ignored."""
    targets = torch.randint(0, classes, (rows,))
    targets[::3] = -100
    return targets


def plain_cross_entropy(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """Torch's, in float32 or, for such logits, float64."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide, targets, reduction=reduction)


def leaves(*tensors: Tensor) -> Outputs:
    return tuple(x.detach().clone().requires_grad_() for x in tensors)


def compare(
    operator: Callable[..., Outputs],
    expression: Callable[..., Outputs],
    inputs: Sequence[Tensor],
    names: Sequence[str],
    floor: float | None = None,
) -> None:
    """Outputs and gradients against the expression in float64, measured by the expression's own error."""
    ours, plain = leaves(*inputs), leaves(*inputs)
    exact = leaves(*(x.double() for x in inputs))
    found, peer, reference = operator(*ours), expression(*plain), expression(*exact)
    douts = [torch.randn(x.shape).to(x.dtype) for x in found]
    for i, (a, b, c) in enumerate(zip(found, peer, reference, strict=True)):
        assert_close(f"output {i}", a, c, b, floor=floor)
    gradients = [
        torch.autograd.grad(outputs, leaf, [d.to(x.dtype) for d, x in zip(douts, outputs, strict=True)])
        for outputs, leaf in ((found, ours), (peer, plain), (reference, exact))
    ]
    for name, x, a, b, c in zip(names, inputs, *gradients, strict=True):
        assert a.dtype == x.dtype, name
        assert_close(f"gradient of {name}", a, c, b, floor=floor)


def results(operator: Callable[..., Outputs], *inputs: Tensor) -> list[Tensor]:
    """Outputs and gradients, for comparisons bit for bit."""
    leaf = leaves(*inputs)
    outputs = operator(*leaf)
    generator = torch.Generator().manual_seed(1)
    douts = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in outputs]
    return [*outputs, *torch.autograd.grad(outputs, leaf, douts)]


def assert_equal_for_any_thread_count(operator: Callable[..., Outputs], *inputs: Tensor) -> None:
    """Of the compiled kernels: Triton's interpreter, which TRITON_INTERPRET puts in their place, has no threads."""
    if triton_runtime.INTERPRETING:
        pytest.skip("Triton's interpreter has one thread")
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(operator, *inputs))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def assert_strides_do_not_matter(operator: Callable[..., Outputs], *inputs: Tensor) -> None:
    strided = [torch.stack((x, x), dim=-1)[..., 0] for x in inputs]
    transposed = [x.t().contiguous().t() for x in inputs]
    expected = [x.detach() for x in operator(*inputs)]
    for others in (strided, transposed):
        assert any(not x.is_contiguous() for x in others)
        assert all(torch.equal(a, b) for a, b in zip(operator(*others), expected, strict=True))


def assert_compiles_whole(operator: Callable[..., Outputs], make: Callable[[int], Sequence[Tensor]]) -> None:
    """One graph, for several row counts, with the bits of the eager call."""
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    for rows in (3, 5, 9):
        inputs = make(rows)
        assert all(
            torch.equal(a, b) for a, b in zip(results(compiled, *inputs), results(operator, *inputs), strict=True)
        )


def assert_no_second_derivatives(operator: Callable[..., Outputs], *inputs: Tensor) -> None:
    leaf = leaves(*inputs)
    (first, *_) = torch.autograd.grad(operator(*leaf)[0].square().sum(), leaf[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives are not supported"):
        first.sum().backward()
