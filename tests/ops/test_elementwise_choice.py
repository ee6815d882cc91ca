"""Which tensors the kernels of the operators around attention take; GPUs are pretended, tensors on them fake."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses import fake_tensor

from fastbert.ops import bias_gelu, cross_entropy, dropout_add_layer_norm, elementwise, extension, triton_runtime


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A call that gives the GPU its compute capability."""
    monkeypatch.setattr(triton_runtime, "MISSING", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    # Where torch is built for CUDA, a first fake tensor on a GPU asks for its driver.
    monkeypatch.setattr(fake_tensor, "init_gpu_context", lambda device: None, raising=False)

    def capability(major: int) -> None:
        triton_runtime._remembered.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(major=major))

    capability(8)
    with fake_tensor.FakeTensorMode():
        yield capability
    triton_runtime._remembered.cache_clear()


def x(columns: int = 16, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(4, columns, dtype=dtype, device="cuda:0")


def weight(columns: int = 16, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(columns, dtype=dtype, device="cuda:0")


def test_gpus_from_ampere_on(gpu: Any) -> None:
    assert elementwise.kernels_serve(x(), weight())
    gpu(7)
    assert not elementwise.kernels_serve(x(), weight())


def test_types(gpu: Any) -> None:
    assert elementwise.kernels_serve(x(dtype=torch.float32))
    assert not elementwise.kernels_serve(x(dtype=torch.float64))
    assert not elementwise.kernels_serve(x(), weight(dtype=torch.bfloat16))


def test_rows_that_a_program_cannot_hold(gpu: Any) -> None:
    assert elementwise.kernels_serve(x(16384), whole_rows=True)
    assert not elementwise.kernels_serve(x(16385), whole_rows=True)
    assert elementwise.kernels_serve(x(16385))


def test_without_triton(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_runtime, "MISSING", "triton is not installed")
    assert not elementwise.kernels_serve(x())


@pytest.mark.skipif(triton_runtime.INTERPRETING, reason="Triton's interpreter takes tensors on the CPU")
def test_tensors_on_the_cpu_need_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    assert elementwise.kernels_serve(torch.ones(2, 3)) == (extension.compiled is not None)
    monkeypatch.setattr(extension, "compiled", None)
    assert not elementwise.kernels_serve(torch.ones(2, 3))


def test_results_stay_on_the_gpu(gpu: Any) -> None:
    out, total = dropout_add_layer_norm(x(), x(), weight(), weight(), eps=1e-5, return_sum=True)
    loss = cross_entropy(bias_gelu(out, weight()), torch.zeros(4, dtype=torch.int64, device="cuda:0"))
    assert {t.device for t in (out, total, loss)} == {torch.device("cuda:0")}
    assert (out.dtype, total.dtype, loss.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
