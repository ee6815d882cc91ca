"""The operators as torch sees them: opcheck, compilation, meta tensors, second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from definition import Call, plain_attention
from problems import BACKENDS, QKV, Dense, doubles, served, with_dropout
from torch import Tensor
from torch.autograd import forward_ad

from fastbert.ops import attention, attention_varlen, backends, dropout, registration
from fastbert.ops.backends import KernelBackend, reference
from fastbert.ops.problem import AttentionOptions

KERNELS = [name for name in BACKENDS if isinstance(backends._named(name), KernelBackend)]
CU = torch.tensor([0, 3, 3, 8], dtype=torch.int32)


def _arguments(packed: bool, kernel: str) -> tuple[Any, ...]:
    rng = torch.tensor([5, 1])
    if packed:
        q, k, v = (torch.randn(10, heads, 16, requires_grad=True) for heads in (4, 2, 2))
        return (q, k, v, CU, CU, 6, 6, None, rng, 3, 0, 0.25, 26, False, kernel)
    x = Dense(2, 7, 9, 4, 2, 16).tensors()
    mask = torch.rand(2, 9) > 0.3
    return (*x, None, None, 7, 9, mask, rng, None, 0, 0.25, 26, False, kernel)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_opcheck(seed: int, kernel: str, packed: bool) -> None:
    arguments = _arguments(packed, kernel)
    torch.library.opcheck(torch.ops.fastbert.attention_forward.default, arguments)
    q, k, v = (x.detach() for x in arguments[:3])
    with torch.no_grad():
        out, lse = torch.ops.fastbert.attention_forward(*arguments)
    for gradients in ((torch.randn_like(out), torch.randn_like(lse)), (torch.randn_like(out), None)):
        torch.library.opcheck(
            torch.ops.fastbert.attention_backward.default, (*gradients, q, k, v, out, lse, *arguments[3:])
        )


@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_whole_and_not_again(seed: int, backend: str, p: float) -> None:
    """New sequences of new lengths, in numbers that were already seen to vary, run the graph that is there."""
    torch._dynamo.reset()
    rng = torch.tensor([5, 1])

    def step(x: Tensor, cu: Tensor, bound: int, rng: Tensor) -> Tensor:
        return attention_varlen(
            x,
            x * 2,
            x,
            cu_seqlens_q=cu,
            cu_seqlens_k=cu,
            max_seqlen_q=bound,
            max_seqlen_k=bound,
            causal=True,
            dropout_p=p,
            rng=rng,
            backend=backend,
        )

    served(backend, lambda: step(torch.randn(8, 4, 16), CU, 5, rng))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    batches = [(10, 6, [0, 3, 3, 8]), (13, 8, [0, 5, 5, 13]), (20, 9, [0, 8, 9, 18, 20]), (30, 10, [0, 7, 17, 20, 25])]
    for i, (total, bound, lengths) in enumerate([*batches, (33, 20, [0, 20, 25, 33]), (31, 19, [0, 13, 31])]):
        if i == len(batches):
            torch._dynamo.config.error_on_recompile = True
        try:
            x = torch.randn(total, 4, 16, requires_grad=True)
            cu = torch.tensor(lengths, dtype=torch.int32)
            found, wanted = compiled(x, cu, bound, rng), step(x, cu, bound, rng)
            torch.testing.assert_close(found, wanted)
            dout = torch.randn_like(found)
            torch.testing.assert_close(*(torch.autograd.grad(y, x, dout)[0] for y in (found, wanted)))
        finally:
            torch._dynamo.config.error_on_recompile = False


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_dense_with_a_mask_under_autocast(seed: int, backend: str) -> None:
    inputs = Dense(2, 7, 9, 4, 2, 16).tensors()
    mask = torch.arange(9) < torch.tensor([[9], [4]])

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, window=(3, 0), key_padding_mask=mask, backend=backend)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = compiled(*inputs), step(*inputs)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted)
    dout = torch.randn_like(found)
    for a, b in zip(*(torch.autograd.grad(y, inputs, dout) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "p"), [("cpu", 0.1), ("reference", 0.1), ("sdpa", 0.0)])
def test_inductor(seed: int, backend: str, p: float) -> None:
    """The whole way to generated code, forward and backward."""
    torch._dynamo.reset()

    def step(x: Tensor, cu: Tensor, rng: Tensor) -> Tensor:
        lengths: dict[str, Any] = {"cu_seqlens_q": cu, "cu_seqlens_k": cu, "max_seqlen_q": 9, "max_seqlen_k": 9}
        out = attention_varlen(x, x, x.sin(), dropout_p=p, rng=rng, backend=backend, **lengths)
        return dropout(out.flatten(1), p, rng=rng, site=1)

    compiled = torch.compile(step, fullgraph=True)
    x, rng = torch.randn(10, 4, 16, requires_grad=True), torch.tensor([5, 1])
    found, wanted = compiled(x, CU, rng), step(x, CU, rng)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    dout = torch.randn_like(found)
    a, b = (torch.autograd.grad(y, x, dout)[0] for y in (found, wanted))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_whole_with_another_scale(seed: int, backend: str) -> None:
    torch._dynamo.reset()
    q = torch.randn(1, 5, 2, 8)

    def step(q: Tensor, scale: float) -> Tensor:
        return attention(q, q, q, causal=True, scale=scale, backend=backend)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for scale in (0.1, 0.2, 0.3, -0.5):
        torch.testing.assert_close(compiled(q, scale), step(q, scale))


def test_compiled_dropout_draws_anew(seed: int) -> None:
    q = torch.randn(1, 16, 2, 8)
    compiled = torch.compile(lambda q: attention(q, q, q, dropout_p=0.5), fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    first, second = compiled(q), compiled(q)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(compiled(q), first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_meta_tensors_have_shapes(backend: str) -> None:
    q, k = torch.empty(2, 5, 4, 8, device="meta", requires_grad=True), torch.empty(2, 7, 2, 8, device="meta")
    out = served(backend, lambda: attention(q, k, k, causal=True, backend=backend))
    assert out.shape == q.shape
    assert torch.autograd.grad(out.sum(), q)[0].shape == q.shape


@pytest.mark.parametrize("dropout", [False, True])
def test_second_derivatives_of_the_reference(seed: int, dropout: bool) -> None:
    call = with_dropout(Call(causal=True)) if dropout else Call(causal=True)
    inputs = Dense(2, 6, 9, 4, 2, 8).tensors()
    dout, ddq = torch.randn(inputs[0].shape), torch.randn(inputs[0].shape)
    exact_inputs = doubles(inputs)

    def second(out: Tensor, x: QKV) -> tuple[Tensor, ...]:
        (dq, *_) = torch.autograd.grad(out, x, dout.to(out), create_graph=True)
        return torch.autograd.grad(dq, x, ddq.to(out))

    out = attention(*inputs, causal=True, dropout_p=call.dropout_p, rng=call.rng, backend="reference")
    exact, _ = plain_attention(*exact_inputs, call)
    for found, wanted in zip(second(out, inputs), second(exact, exact_inputs), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


def test_second_derivatives_of_packed_calls(seed: int) -> None:
    def penalty(backend_lengths: Tensor) -> Tensor:
        x = torch.randn(10, 2, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out, lse = attention_varlen(
            x,
            x,
            x,
            cu_seqlens_q=backend_lengths,
            cu_seqlens_k=backend_lengths,
            max_seqlen_q=10,
            max_seqlen_k=10,
            return_lse=True,
            backend="reference",
        )
        (dx,) = torch.autograd.grad(out.square().sum() + lse.sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), x)[0]

    one_by_one = penalty(torch.tensor([0, 10], dtype=torch.int32))
    assert one_by_one.isfinite().all()
    apart = penalty(torch.tensor([0, 4, 10], dtype=torch.int32))
    assert not torch.allclose(apart, one_by_one)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_second_derivatives_elsewhere_are_an_error_that_helps(seed: int, backend: str) -> None:
    inputs = Dense(1, 6, 6, 2, 2, 8).tensors()
    out = served(backend, lambda: attention(*inputs, backend=backend))
    first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"backend '{backend}' has no second derivatives; use .*reference"):
        torch.autograd.grad(torch.stack([x.sum() for x in first]).sum(), inputs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, when it sets the mode up
@pytest.mark.parametrize("how", ["dual numbers", "torch.func"])
def test_forward_mode_is_an_error_and_not_zero(seed: int, how: str) -> None:
    x, tangent = torch.randn(1, 6, 2, 8), torch.randn(1, 6, 2, 8)

    def differentiate(operator: Callable[[Tensor], Tensor]) -> None:
        if how == "torch.func":
            torch.func.jvp(operator, (x,), (tangent,))
            return
        with forward_ad.dual_level():
            operator(forward_ad.make_dual(x, tangent))

    operators: list[Callable[[Tensor], Tensor]] = [
        lambda q: attention(q, x, x, backend="reference"),
        lambda k: attention(x, k, x, backend="reference"),
        lambda y: dropout(y.flatten(0, 2), 0.5, rng=None, site=0),
    ]
    for operator in operators:
        with pytest.raises(NotImplementedError, match="forward-mode differentiation is not supported; use reverse"):
            differentiate(operator)
        with forward_ad.dual_level():
            operator(x)  # nothing to differentiate


@pytest.mark.parametrize("head_dim", [1, 8])
def test_a_kernel_gets_rows_of_stride_one(seed: int, monkeypatch: pytest.MonkeyPatch, head_dim: int) -> None:
    """Expanded gradients and strided inputs are copied before a kernel sees them; of one column, the stride is set."""
    seen: dict[str, tuple[int, ...]] = {}

    def forward(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
        seen.update(q=q.stride(), k=k.stride(), v=v.stride())
        return reference.forward(q, k, v, options)

    def backward(dout: Tensor | None, dlse: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        assert dout is not None
        assert dlse is not None
        seen.update(dout=dout.stride(), dlse=dlse.stride())
        return reference.backward(dout, dlse, *rest)

    spy = KernelBackend("reference", lambda problem: None, forward, backward)
    monkeypatch.setattr(registration, "kernel", lambda name: spy)
    q, k, v = (x.detach() for x in Dense(2, 5, 7, 2, 2, 2 * head_dim).tensors())
    q, k, v = (x[..., ::2].requires_grad_() for x in (q, k, v))
    wanted = attention(q, k, v, backend="sdpa")
    out, lse = attention(q, k, v, return_lse=True, backend="reference")
    torch.testing.assert_close(out, wanted)
    (out.sum() + lse.sum()).backward()
    assert set(seen) == {"q", "k", "v", "dout", "dlse"}
    assert all(stride[-1] == 1 for stride in seen.values()), seen


def test_an_opaque_backward_is_an_error_too(seed: int) -> None:
    """What a kernel without a differentiable backward does; the reference's own operator, called directly."""
    arguments = _arguments(False, "reference")
    out, lse = torch.ops.fastbert.attention_forward(*arguments)
    dout = torch.randn_like(out)
    gradients = torch.ops.fastbert.attention_backward(dout, None, *arguments[:3], out, lse, *arguments[3:])
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        gradients[0].sum().backward()


def test_create_graph_alone_is_no_error(seed: int) -> None:
    for backend in BACKENDS:
        inputs = Dense(1, 6, 6, 2, 2, 8).tensors()
        out = served(backend, lambda b=backend, x=inputs: attention(*x, backend=b))  # type: ignore[misc]
        wanted = torch.autograd.grad(out.sum(), inputs, retain_graph=True)
        found = torch.autograd.grad(out.sum(), inputs, create_graph=True)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("shape", [(4, 70, 4, 32), (1, 777, 1, 128)])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_threads_change_no_bit(seed: int, p: float, shape: tuple[int, int, int, int]) -> None:
    """The kernels' promise; the matrix products of torch, which reference and sdpa compute with, make none."""
    batch, seq, heads, head_dim = shape
    inputs = Dense(batch, seq, seq, heads, heads, head_dim).tensors()
    arguments: dict[str, Any] = {"dropout_p": p, "rng": with_dropout(Call()).rng, "deterministic": True}
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = attention(*inputs, causal=True, backend="cpu", **arguments)
        results.append([out, *torch.autograd.grad(out, inputs, torch.ones_like(out))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
