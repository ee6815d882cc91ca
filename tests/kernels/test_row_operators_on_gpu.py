"""What only a GPU can tell of the Triton kernels over rows, against the compiled ones of the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fused import leaves, results
from torch import Tensor

from fastbert.ops import (
    bias_gelu,
    cross_entropy,
    dropout,
    dropout_add,
    dropout_add_layer_norm,
    extension,
    linear_cross_entropy,
    triton_runtime,
)
from fastbert.ops.elementwise import kernels_serve

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or triton_runtime.MISSING is not None or extension.compiled is None,
    reason="needs a GPU, triton and the compiled extension",
)

Operator = Callable[..., tuple[Tensor, ...]]
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


def rng(device: torch.device) -> Tensor:
    return torch.tensor([-(2**62) - 5, 2**33 + 7], device=device)


def norm(return_sum: bool, p: float) -> Operator:
    def run(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        options = {"eps": 1e-12, "p": p, "rng": rng(x.device) if p else None, "site": 2, "return_sum": return_sum}
        found = dropout_add_layer_norm(x, residual, weight, bias, **options)
        return found if return_sum else (found,)

    return run


def loss(reduction: str) -> Operator:
    def run(logits: Tensor) -> tuple[Tensor, ...]:
        targets = torch.arange(logits.shape[0], device=logits.device) * 7 % logits.shape[1]
        targets[::3] = -100
        return (cross_entropy(logits, targets, reduction=reduction),)

    return run


def linear_loss(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    targets = torch.arange(x.shape[0], device=x.device) * 7 % weight.shape[0]
    return (linear_cross_entropy(x, weight, None, targets),)


def shapes(*names: str, rows: int, columns: int) -> list[tuple[int, ...]]:
    return [(rows, columns) if name == "x" else (columns,) for name in names]


OPERATORS: dict[str, tuple[Operator, list[tuple[int, ...]]]] = {
    "dropout": (lambda x: (dropout(x, 0.1, rng=rng(x.device), site=3),), shapes("x", rows=1031, columns=768)),
    "dropout_add": (
        lambda x, y: (dropout_add(x, y, p=0.5, rng=rng(x.device), site=0),),
        shapes("x", "x", rows=515, columns=1000),
    ),
    "gelu": (lambda x, b: (bias_gelu(x, b),), shapes("x", "b", rows=1031, columns=3072)),
    "gelu tanh": (lambda x, b: (bias_gelu(x, b, approximate="tanh"),), shapes("x", "b", rows=77, columns=999)),
    "norm": (norm(False, 0.1), shapes("x", "x", "w", "b", rows=1031, columns=768)),
    "norm and sum": (norm(True, 0.1), shapes("x", "x", "w", "b", rows=4099, columns=1024)),
    "norm alone": (norm(False, 0.0), shapes("x", "x", "w", "b", rows=13, columns=16384)),
    "wide norm": (norm(True, 0.1), shapes("x", "x", "w", "b", rows=5, columns=20000)),
    "loss": (loss("sum"), shapes("x", rows=515, columns=30522)),
    "linear loss": (linear_loss, [(4001, 64), (40000, 64)]),
    "losses": (loss("none"), shapes("x", rows=100, columns=50257)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPERATORS)
def test_against_the_cpu_and_against_itself(seed: int, name: str, dtype: torch.dtype) -> None:
    """What the CPU's kernels compute, and the same bits once more."""
    operator, sizes = OPERATORS[name]
    inputs = [torch.randn(size).to(dtype) if len(size) == 2 else torch.randn(size) for size in sizes]
    on_gpu = [x.cuda() for x in inputs]
    assert kernels_serve(*on_gpu[:1])
    wanted = results(operator, *inputs)
    found, again = gpu_results(operator, on_gpu), gpu_results(operator, on_gpu)
    for i, (a, b, c) in enumerate(zip(found, wanted, again, strict=True)):
        assert a.dtype == b.dtype
        assert torch.equal(a, c)
        scale = b.float().abs().max().item()
        torch.testing.assert_close(
            a.cpu(),
            b,
            rtol=ROUNDING[dtype],
            atol=ROUNDING[dtype] * max(scale, 1e-3) / 4,
            msg=lambda m, i=i: f"{i}: {m}",
        )


def gpu_results(operator: Operator, inputs: list[Tensor]) -> list[Tensor]:
    """Of the same incoming gradients as those on the CPU."""
    leaf = leaves(*inputs)
    outputs = operator(*leaf)
    generator = torch.Generator().manual_seed(1)
    douts = [torch.randn(x.shape, generator=generator).to(x.dtype).cuda() for x in outputs]
    return [*outputs, *torch.autograd.grad(outputs, leaf, douts)]


def test_dropped_elements_are_those_of_the_cpu(seed: int) -> None:
    x = torch.ones(515, 1000)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        on_cpu, on_gpu = (dropout(y, 0.3, rng=rng(y.device), site=2**31 - 1) for y in (x.to(dtype), x.to(dtype).cuda()))
        assert torch.equal(on_gpu.cpu(), on_cpu)


def test_offsets_beyond_32_bits(seed: int) -> None:
    rows = 2**31 // 768 + 5
    x = torch.ones(rows, 768, device="cuda", dtype=torch.float16)
    out = dropout(x, 0.5, rng=rng(x.device), site=1)
    wanted = dropout(torch.ones(rows, 768, dtype=torch.float16), 0.5, rng=rng(torch.device("cpu")), site=1)
    assert torch.equal(out[-9:].cpu(), wanted[-9:])


def test_a_captured_graph_follows_new_values_and_random_numbers(seed: int) -> None:
    x, residual = (torch.randn(256, 768, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    weight, bias = torch.randn(768, device="cuda"), torch.randn(768, device="cuda")
    random = rng(x.device)

    def run() -> Tensor:
        hidden = dropout_add_layer_norm(x, residual, weight, bias, eps=1e-5, p=0.1, rng=random, site=1)
        return cross_entropy(bias_gelu(hidden, bias), torch.arange(256, device="cuda"))

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    x.normal_()
    random[1] += 1
    graph.replay()
    assert torch.equal(out, run())


def test_compiled_by_inductor(seed: int) -> None:
    def step(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        hidden = dropout_add_layer_norm(x.sin(), residual, weight, bias, eps=1e-5, p=0.1, rng=rng(x.device), site=1)
        return (bias_gelu(hidden, bias),)

    inputs = [torch.randn(size, device="cuda") for size in shapes("x", "x", "w", "b", rows=130, columns=768)]
    found, wanted = (gpu_results(f, inputs) for f in (torch.compile(step, fullgraph=True), step))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
