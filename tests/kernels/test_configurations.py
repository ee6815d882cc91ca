"""The table of configurations, and what the backend declines: plain Python, no Triton."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastbert.kernels.configurations import architecture, configuration, padded
from fastbert.ops import available_backends, triton_runtime
from fastbert.ops.backends import example_problem, triton
from fastbert.ops.problem import AttentionOptions

KERNELS = ("forward", "backward_q", "backward_k")


@pytest.mark.parametrize(
    ("backend", "arch", "row"),
    [
        ("cuda", 80, "ampere"),
        ("cuda", 86, "ampere"),
        ("cuda", 89, "ampere"),
        ("cuda", 90, "hopper"),
        ("cuda", 100, "blackwell"),
        ("cuda", 103, "blackwell"),
        ("cuda", 120, "ampere"),
        ("hip", "gfx942", "cdna"),
        ("hip", "gfx90a", "cdna"),
    ],
)
def test_every_gpu_has_a_row(backend, arch, row):
    assert architecture(backend, arch) == row


@pytest.mark.parametrize("row", ["ampere", "hopper", "blackwell", "cdna", "interpreter"])
def test_every_call_has_a_configuration_that_the_kernels_can_take(row):
    """Dropout's tiles are 16 x 32, and tiles and warps are powers of two."""
    for kernel, itemsize, head_dim in itertools.product(KERNELS, (2, 4), range(1, 257)):
        tiles = configuration(kernel, row, itemsize, padded(head_dim))
        assert tiles.block_q % 16 == 0
        assert tiles.block_k % 32 == 0
        for n in (tiles.block_q, tiles.block_k, tiles.num_warps):
            assert n & (n - 1) == 0
        assert tiles.num_stages >= 1


@pytest.mark.parametrize(("head_dim", "dim"), [(1, 16), (16, 16), (17, 32), (64, 64), (65, 128), (256, 256)])
def test_padded(head_dim, dim):
    assert padded(head_dim) == dim


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        (None, "triton is not installed"),
        ("3.4.0", "triton 3.4.0 is installed, and the kernels need 3.5 or newer"),
        ("nightly", "triton nightly is installed, and the kernels need 3.5 or newer"),
        ("3.5.0", None),
        ("3.10.1+git", None),
        ("4.0.0", None),
    ],
)
def test_an_old_triton_is_declined(version, complaint):
    assert triton_runtime._complaint(version) == complaint


def test_a_missing_triton_is_the_reason(monkeypatch):
    monkeypatch.setattr(triton_runtime, "MISSING", "triton is not installed")
    assert triton.supports(example_problem("cuda")) == "triton is not installed"
    assert triton_runtime.status() == "triton is not installed"


@pytest.fixture
def gpu(monkeypatch):
    """A call that makes torch say that there is a GPU of these properties."""

    def pretend(**properties):
        monkeypatch.setattr(triton_runtime, "MISSING", None)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Properties", (), properties))

    return pretend


def test_an_old_gpu_is_declined(gpu):
    gpu(major=7, minor=5)
    assert triton.supports(example_problem("cuda")) == "it needs compute capability 8.0 or newer, and the GPU has 7.5"


def test_what_shared_memory_cannot_hold_is_declined(gpu):
    """The gradients of wide float32 heads, on GPUs whose blocks have 99 KB."""
    wide = example_problem("cuda")._replace(dtype=torch.float32, head_dim=256)
    gpu(major=8, minor=9, shared_memory_per_block_optin=101_376)
    assert "need 102400 bytes of shared memory, and the GPU has 101376" in str(triton.supports(wide))
    assert triton.supports(wide._replace(requires_grad=False)) is None
    assert triton.supports(wide._replace(head_dim=128)) is None
    gpu(major=8, minor=0, shared_memory_per_block_optin=166_912)
    assert triton.supports(wide) is None


def test_it_comes_after_the_cuda_kernels_and_before_torch():
    order = list(available_backends("cuda"))
    assert order.index("cuda") < order.index("triton") < order.index("sdpa")


def test_what_no_launch_can_hold_is_an_error(monkeypatch):
    """Before anything is launched, so meta tensors will do."""
    problem = {"window_left": None, "window_right": None, "scale": 1.0, "dropout_threshold": 0, "deterministic": False}
    problem |= {"key_padding_mask": None, "rng": None, "cu_seqlens_q": None, "cu_seqlens_k": None}
    monkeypatch.setattr(triton_runtime, "INTERPRETING", True)
    x = torch.empty(1, 2**29, 1, 1, device="meta")
    options = AttentionOptions(**problem, max_seqlen_q=2**29, max_seqlen_k=2**29)
    with pytest.raises(ValueError, match="'triton' takes sequences below 536870912 rows, not 536870912"):
        triton.forward(x, x, x, options)
    x = torch.empty(2**20, 2**20, 1, 1, device="meta")
    options = options._replace(max_seqlen_q=2**20, max_seqlen_k=2**20)
    with pytest.raises(ValueError, match="'triton' would launch 34359738368 programs, more than a grid has"):
        triton.forward(x, x, x, options)
