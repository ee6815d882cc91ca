"""What only a GPU can show of the CUDA backend: streams, graphs, and that the host never waits."""

from __future__ import annotations

import pytest
import torch
from definition import Call
from problems import Dense, with_dropout
from torch import Tensor

from fastbert.ops import attention
from fastbert.ops.backends import cuda

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(autouse=True)
def kernels_run_here() -> None:
    if (reason := cuda.unavailable()) is not None:
        pytest.skip(reason)


def step(q: Tensor, k: Tensor, v: Tensor, call: Call) -> list[Tensor]:
    out = attention(q, k, v, causal=True, dropout_p=call.dropout_p, rng=call.rng, deterministic=True, backend="cuda")
    return [out, *torch.autograd.grad(out, (q, k, v), torch.ones_like(out))]


@pytest.mark.parametrize("seq", [64, 400])
def test_a_captured_call_follows_its_inputs_and_its_rng(seed: int, seq: int) -> None:
    call = with_dropout(Call(), device="cuda")
    inputs = Dense(2, seq, seq, 4, 2, 64, dtype=torch.bfloat16).tensors("cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step(*inputs, call)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(*inputs, call)
    with torch.no_grad():
        for x in inputs:
            x.copy_(torch.randn_like(x))
        assert call.rng is not None
        call.rng.add_(1)
    graph.replay()
    for found, wanted in zip(captured, step(*inputs, call), strict=True):
        assert torch.equal(found, wanted)


def test_the_host_never_waits(seed: int) -> None:
    call = with_dropout(Call(), device="cuda")
    inputs = Dense(2, 300, 300, 4, 2, 59, dtype=torch.bfloat16).tensors("cuda")
    step(*inputs, call)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*inputs, call)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_kernels_run_on_the_current_stream(seed: int) -> None:
    """Behind a long wait on that stream, inputs are changed and read in its order."""
    inputs = Dense(2, 128, 128, 4, 4, 64, dtype=torch.bfloat16).tensors("cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(20_000_000)
        for x in inputs:
            x.mul_(2)
        found = attention(*inputs, backend="cuda")
    torch.cuda.synchronize()
    assert torch.equal(found, attention(*inputs, backend="cuda"))


def test_the_device_before_is_the_device_after(seed: int) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    inputs = Dense(1, 70, 70, 2, 2, 64, dtype=torch.bfloat16).tensors("cuda:1")
    out = attention(*inputs, backend="cuda")
    assert torch.cuda.current_device() == 0
    assert torch.equal(out.cpu(), attention(*(x.to("cuda:0") for x in inputs), backend="cuda").cpu())
