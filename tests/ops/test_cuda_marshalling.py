"""From tensors to a plan of launches, and which GPUs the kernels of a build run on; no GPU is asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from emulated_cuda import SM_80
from interpreter import run_code
from torch import Tensor

from fastbert import _C
from fastbert.ops.backends import cuda
from fastbert.ops.problem import AttentionOptions, AttentionProblem

OPTIONS = AttentionOptions(None, None, 0.5, 0, False, None, None, None, None, 6, 9)


@dataclass
class Recorder:
    """A device that runs nothing: it says which tensors it was asked the address of."""

    shared_bytes: int = SM_80
    asked: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)
    plans: list[Any] = field(default_factory=list)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        self.made.append(torch.zeros(tuple(shape), dtype=dtype))
        return self.made[-1]

    def address(self, x: Tensor | None) -> int:
        if x is None:
            return 0
        self.asked.append(x)
        return x.data_ptr()

    def run(self, plan: Any) -> None:
        self.plans.append(plan)


def aligned(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16()


def forward(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = OPTIONS) -> tuple[Recorder, Tensor, Tensor]:
    device = Recorder()
    out, lse = cuda.forward(device, q, k, v, options)
    return device, out, lse


def shares_memory(device: Recorder, x: Tensor) -> bool:
    """Whether kernels read this very tensor."""
    return any(x.data_ptr() == y.data_ptr() and x.stride() == y.stride() for y in device.asked)


def test_tensors_that_kernels_can_copy_are_not_copied_before() -> None:
    """Slices of a fused projection, heads before rows, and one row for all."""
    fused = aligned(2, 9, 2, 3 * 16)
    q, k = fused[..., :16], aligned(2, 2, 9, 16).transpose(1, 2)
    v = aligned(1, 1, 2, 16).expand(2, 9, 2, 16)
    device, out, lse = forward(q, k, v, OPTIONS._replace(max_seqlen_q=9))
    assert all(shares_memory(device, x) for x in (q, k, v))
    assert out.shape == (2, 9, 2, 16)
    assert lse.shape == (2, 2, 9)
    assert len(device.plans) == 1


@pytest.mark.parametrize(
    "misplaced",
    [
        aligned(2, 6, 2, 24)[..., 4:20],  # begins 8 bytes behind a multiple of 16
        aligned(2, 6, 2, 20)[..., :16],  # heads lie 40 bytes apart
        aligned(2 * 6 * 2 * 16 + 1)[1:].view(2, 6, 2, 16),  # 2 bytes behind a multiple of 16
    ],
    ids=["start", "stride", "contiguous but off"],
)
def test_tensors_that_kernels_cannot_copy_are_copied_before(misplaced: Tensor) -> None:
    device, _, _ = forward(misplaced, aligned(2, 9, 2, 16), aligned(2, 9, 2, 16))
    assert not shares_memory(device, misplaced)
    (copy,) = (x for x in device.asked if x.shape == misplaced.shape and torch.equal(x, misplaced))
    assert copy.data_ptr() % 16 == 0
    assert all(stride % 8 == 0 for stride in copy.stride()[:-1])


def test_strides_of_single_rows_do_not_matter() -> None:
    """A batch of one may have any stride of its batch."""
    q = aligned(6 * 16 + 3).as_strided((1, 6, 1, 16), (99, 16, 3, 1))
    device, _, _ = forward(q, aligned(1, 9, 1, 16), aligned(1, 9, 1, 16))
    assert shares_memory(device, q)


@pytest.mark.parametrize(("head_dim", "computed"), [(1, 8), (8, 8), (59, 64), (111, 112), (250, 256)])
def test_columns_are_filled_up_with_zeros_and_cut_off(head_dim: int, computed: int) -> None:
    q, k, v = aligned(2, 6, 4, head_dim), aligned(2, 9, 2, head_dim), aligned(2, 9, 2, head_dim)
    device, out, lse = forward(q, k, v)
    read = [x for x in device.asked if x.dim() == 4][:3]
    for x, y in zip((q, k, v), read, strict=True):
        assert y.shape[-1] == computed
        assert torch.equal(y[..., :head_dim], x)
        assert y[..., head_dim:].eq(0).all()
    assert out.shape == q.shape
    assert out.is_contiguous()
    device = Recorder()
    gradients = cuda.backward(device, torch.randn_like(q), None, q, k, v, out, lse, OPTIONS)
    for x, gradient in zip((q, k, v), gradients, strict=True):
        assert gradient.shape == x.shape
        assert gradient.is_contiguous()


def test_options_are_read_contiguous() -> None:
    mask = torch.ones(9, 2, dtype=torch.bool).t()
    rng = torch.tensor([5, 0, 7])[::2]
    device, _, _ = forward(
        *(aligned(2, n, 2, 16) for n in (6, 9, 9)),
        OPTIONS._replace(key_padding_mask=mask, rng=rng, dropout_threshold=9),
    )
    assert any(x.dtype == torch.bool and x.is_contiguous() and torch.equal(x, mask) for x in device.asked)
    assert any(x.dtype == torch.int64 and x.is_contiguous() and x.tolist() == [5, 7] for x in device.asked)


def test_bounds_far_above_the_lengths_are_cut_to_the_rows() -> None:
    """Or the grid would have blocks for 2^31 rows."""
    q, cu = aligned(11, 2, 16), torch.tensor([0, 4, 11], dtype=torch.int32)
    huge = OPTIONS._replace(cu_seqlens_q=cu, cu_seqlens_k=cu, max_seqlen_q=2**31 - 1, max_seqlen_k=2**31 - 1)
    tight = huge._replace(max_seqlen_q=11, max_seqlen_k=11)
    plans = [forward(q, q, q, options)[0].plans[0] for options in (huge, tight)]
    assert [launch.grid for launch in plans[0].launches] == [launch.grid for launch in plans[1].launches]


def test_a_workspace_is_made_where_one_is_needed() -> None:
    for seq_k, made in ((32, 3), (400, 4)):
        q, k = aligned(1, 6, 2, 64), aligned(1, seq_k, 2, 64)
        device = Recorder()
        options = OPTIONS._replace(max_seqlen_k=seq_k)
        cuda.backward(device, q, None, q, k, k, q, torch.zeros(1, 2, 6), options)
        assert len(device.made) == made
        assert len(device.plans[0].launches) == (1 if made == 3 else 3)


def problem(**changes: Any) -> AttentionProblem:
    return AttentionProblem("cuda", torch.bfloat16, False, 2, 4, 4, 64, 128, 128)._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"dtype": torch.float16}, None),
        ({"dtype": torch.float32}, "its kernels compute in bfloat16 and float16, and the tensors are float32"),
        ({"seq_q": 2**28}, None),
        ({"seq_k": 2**28 + 1}, "a sequence has 268435457 rows, and its kernels count to 268435456"),
        ({"varlen": True, "seq_k": 2**31 - 1}, None),
    ],
)
def test_what_the_kernels_decline(changes: dict[str, Any], reason: str | None) -> None:
    found = cuda.declines(problem(**changes))
    assert found == reason if reason is None else found is not None and reason in found


def test_other_devices_are_declined() -> None:
    assert "the tensors are on cpu" in str(cuda.supports(problem(device_type="cpu")))


BUILD = {
    "cuda": "kernels for sm_80, sm_90, PTX of compute_80, by nvcc 13.0",
    "cuda_runtime": "13.0",
    "cuda_binaries": "80;90",
    "cuda_ptx": "",
}


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (13000, None),
        (13020, None),
        (12080, "built with CUDA 13.0, and the driver supports only 12.8: update the driver"),
        (0, "there is no NVIDIA driver"),
    ],
)
def test_the_driver_must_know_the_runtime(driver: int, reason: str | None) -> None:
    found = cuda.unusable(BUILD, driver)
    assert found == reason if reason is None else found is not None and reason in found


def test_a_build_without_kernels_is_the_first_reason() -> None:
    nothing = {"cuda": "no kernels, as FASTBERT_CUDA=0 asks", "cuda_runtime": ""}
    assert cuda.unusable(nothing, 0) == "fastbert._C has no kernels, as FASTBERT_CUDA=0 asks"


@pytest.mark.parametrize(
    ("binaries", "ptx", "runs"),
    [
        ("80", "", {(8, 0), (8, 6), (8, 9)}),
        ("86;90", "", {(8, 6), (8, 9), (9, 0)}),
        ("100", "", {(10, 0), (10, 3)}),
        ("90", "80", {(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)}),
    ],
)
def test_code_runs_where_cuda_says_it_does(binaries: str, ptx: str, runs: set[tuple[int, int]]) -> None:
    """CUDA C++ Programming Guide, binary and PTX compatibility."""
    build = BUILD | {"cuda_binaries": binaries, "cuda_ptx": ptx}
    for capability in ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)):
        reason = cuda.unsuited(build, capability)
        assert (reason is None) == (capability in runs)
        if reason is not None and capability >= (8, 0):
            assert f"FASTBERT_CUDA_ARCHS={capability[0]}{capability[1]}" in reason


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_importing_the_extension_asks_for_no_cuda_library() -> None:
    """The runtime is inside, and the driver is looked for when something is launched."""
    code = f"""
        import importlib.util
        from pathlib import Path
        spec = importlib.util.spec_from_file_location("_C", {_C.__file__!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.cuda_kernels()
        print("libcuda" in Path("/proc/self/maps").read_text())
    """
    result = run_code(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "False"
