"""How calls are launched on CUDA: plans are made by plain host code, so no GPU is needed to look at them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from emulated_cuda import SM_80, SM_86, SM_90, cuda_build

from fastbert import _C

# Shared memory that a block may have (CUDA C++ Programming Guide, table of technical specifications).
SHARED = {80: SM_80, 86: SM_86, 89: SM_86, 90: SM_90, 100: SM_90, 120: SM_86}
# Whose machine code a GPU runs, besides its own.
RUNS = {86: 80, 89: 80}
SOMEWHERE = 1 << 20
STRIDES = (1 << 16, 256, 64)
DENSE: dict[str, Any] = {
    "dtype": "bfloat16",
    "batch": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 64,
    "seq_q": 300,
    "seq_k": 300,
    "total_q": 0,
    "total_k": 0,
    "cu_seqlens_q": 0,
    "cu_seqlens_k": 0,
    "key_padding_mask": 0,
    "window_left": None,
    "window_right": None,
    "scale": 1.0,
    "dropout_threshold": 0,
    "rng": SOMEWHERE,
    "num_threads": 1,
}
PACKED = DENSE | {"total_q": 500, "total_k": 550, "cu_seqlens_q": SOMEWHERE, "cu_seqlens_k": SOMEWHERE}


def forward(shared_bytes: int = SM_80, **changes: Any) -> _C.AttentionPlan:
    problem = _C.AttentionProblem(**DENSE | changes)
    return _C.attention_forward_plan(problem, shared_bytes, *(SOMEWHERE, STRIDES) * 3, out=SOMEWHERE, lse=SOMEWHERE)


def workspace(shared_bytes: int = SM_80, deterministic: bool = False, **changes: Any) -> int:
    return _C.attention_backward_workspace(_C.AttentionProblem(**DENSE | changes), shared_bytes, deterministic)


def backward(
    shared_bytes: int = SM_80, deterministic: bool = False, room: int = SOMEWHERE, **changes: Any
) -> _C.AttentionPlan:
    results = dict.fromkeys(("out", "lse", "dout", "dlse", "dq", "dk", "dv"), SOMEWHERE)
    return _C.attention_backward_plan(
        _C.AttentionProblem(**DENSE | changes),
        shared_bytes,
        deterministic,
        room,
        *(SOMEWHERE, STRIDES) * 3,
        dout_strides=STRIDES,
        **results,
    )


def names(plan: _C.AttentionPlan) -> list[str]:
    return [launch.kernel for launch in plan.launches]


@pytest.mark.parametrize("architecture", SHARED)
def test_every_kernel_that_a_plan_names_is_built_and_fits(architecture: int) -> None:
    """For every type, head_dim, dropout and length, on every GPU; and nothing is built that no GPU runs."""
    shared_bytes, build = SHARED[architecture], cuda_build()
    code = f"code=sm_{RUNS.get(architecture, architecture)}"
    complete = build.CudaBuild(None, build.EVERY_GENERATION, (build.PTX,))
    built = {
        kernel
        for instance in build.instances()
        for kernel in instance.kernels
        if any(target.endswith(code) for target in complete.targets(instance))
    }
    named = set()
    choices = itertools.product(("bfloat16", "float16"), range(8, 257, 8), (0, 25), (16, 4096), (False, True))
    for dtype, head_dim, threshold, seq_k, deterministic in choices:
        call = {"dtype": dtype, "head_dim": head_dim, "dropout_threshold": threshold, "seq_k": seq_k}
        for plan in (forward(shared_bytes, **call), backward(shared_bytes, deterministic, **call)):
            for launch in plan.launches:
                assert launch.shared_bytes <= shared_bytes, launch.kernel
                assert launch.threads <= 1024
                named.add(launch.kernel)
    assert named <= built
    if architecture not in RUNS and architecture != 80:
        assert named == built


def test_every_ptx_is_built_too() -> None:
    """What newer GPUs compile when it is loaded: all of it, whatever shared memory they will have."""
    build = cuda_build()
    for instance in build.instances():
        assert f"arch=compute_{build.PTX},code=compute_{build.PTX}" in build.CudaBuild(
            None, (90,), (build.PTX,)
        ).targets(instance)


def test_names_of_kernels() -> None:
    assert names(forward(head_dim=40)) == ["fastbert_attention_forward_bf16_64"]
    assert names(forward(dtype="float16", head_dim=256, dropout_threshold=1)) == [
        "fastbert_attention_forward_f16_256_dropout"
    ]
    prepare, main, finish = names(backward(dtype="float16", dropout_threshold=1))
    assert prepare == "fastbert_attention_backward_prepare_f16"
    assert main.startswith("fastbert_attention_backward_f16_64_")
    assert main.endswith("_dropout")
    assert finish == "fastbert_attention_backward_finish_f16"


def tile(plan: _C.AttentionPlan) -> tuple[int, int]:
    """Keys and queries of the backward's tile, as its name has them."""
    (main,) = (name for name in names(plan) if "x" in name)
    keys, _, queries = main.split("_")[5].partition("x")
    return int(keys), int(queries)


@pytest.mark.parametrize("shared_bytes", [SM_80, SM_86])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 256])
def test_the_grid_has_a_block_for_every_tile(head_dim: int, shared_bytes: int) -> None:
    for problem in (DENSE, PACKED):
        sequences = 2 + (problem is PACKED)  # one more for the rows that no sequence owns
        (launch,) = forward(shared_bytes, **problem | {"head_dim": head_dim}).launches
        queries = 128 if head_dim <= 128 else 64
        assert launch.grid == [sequences * 4 * math.ceil(300 / queries), 1, 1]
        plan = backward(shared_bytes, **problem | {"head_dim": head_dim})
        keys, _ = tile(plan)
        prepare, main, finish = plan.launches
        assert main.grid == [sequences * 2 * math.ceil(300 / keys), 1, 1]
        assert prepare.grid == finish.grid == [sequences * 4 * math.ceil(300 / 64), 1, 1]


def test_more_blocks_than_a_row_of_the_grid_has() -> None:
    """2^31 - 1 heads of as many sequences as there may be, one tile each, and 65 of them."""
    for seq_q in (1, 65 * 128):
        (launch,) = forward(batch=2**16, heads=2**15 - 1, kv_heads=1, seq_q=seq_q, seq_k=1).launches
        x, y, z = launch.grid
        blocks = 2**16 * (2**15 - 1) * math.ceil(seq_q / 128)
        assert x <= 2**31 - 1
        assert y <= 65535
        assert z == 1
        assert blocks <= x * y < blocks + y
    with pytest.raises(ValueError, match=r"a launch has at most .* is max_seqlen far above the longest sequence"):
        forward(**PACKED | {"batch": 2**16, "heads": 2**15, "seq_q": 2**28})


@pytest.mark.parametrize("empty", [{"batch": 0}, {"seq_q": 0}, PACKED | {"total_q": 0}])
def test_a_forward_that_writes_nothing_launches_nothing(empty: dict[str, Any]) -> None:
    assert forward(**empty).launches == []


@pytest.mark.parametrize("empty", [{"batch": 0}, {"seq_q": 0, "seq_k": 0}, PACKED | {"total_q": 0, "total_k": 0}])
def test_a_backward_that_writes_nothing_launches_nothing(empty: dict[str, Any]) -> None:
    assert backward(**empty).launches == []
    assert workspace(**empty) == 0


@pytest.mark.parametrize("nothing", [{"seq_k": 0}, PACKED | {"total_k": 0, "seq_k": 0}, PACKED | {"batch": 0}])
def test_rows_without_keys_are_written_too(nothing: dict[str, Any]) -> None:
    assert len(forward(**nothing).launches) == 1
    assert len(backward(**nothing).launches) >= 1


def test_gradients_of_keys_that_nobody_asks_are_written() -> None:
    assert len(backward(seq_q=0).launches) == 1
    assert workspace(seq_q=0) == 0


@pytest.mark.parametrize("shared_bytes", [SM_80, SM_86])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 256])
def test_one_tile_of_keys_needs_no_workspace_and_one_launch(head_dim: int, shared_bytes: int) -> None:
    keys, _ = tile(backward(shared_bytes, head_dim=head_dim))
    for seq_k, launches in ((keys, 1), (keys + 1, 3)):
        for deterministic in (False, True):
            call = {"head_dim": head_dim, "seq_k": seq_k}
            assert (workspace(shared_bytes, deterministic, **call) == 0) == (launches == 1)
            assert len(backward(shared_bytes, deterministic, **call).launches) == launches


@pytest.mark.parametrize("problem", [DENSE, PACKED], ids=["dense", "packed"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_workspace_holds_deltas_sums_and_turns(problem: dict[str, Any], deterministic: bool) -> None:
    def aligned(n: int) -> int:
        return (n + 255) // 256 * 256

    rows = problem["total_q"] or problem["batch"] * problem["seq_q"]
    _, queries = tile(backward(**problem))
    # A tile of queries of a packed sequence that begins at row r has number r // queries + the sequence's own.
    tiles = problem["total_q"] // queries + 2 if problem is PACKED else 2 * math.ceil(300 / queries)
    turns = aligned(4 * tiles * 4) if deterministic else 0
    assert (
        workspace(deterministic=deterministic, **problem) == aligned(rows * 4 * 4) + aligned(rows * 4 * 64 * 4) + turns
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "float32"}, "the CUDA kernels compute in bfloat16 and float16, not in float32"),
        ({"head_dim": 60}, "head_dim is 60: the CUDA kernels take multiples of 8"),
        ({"seq_q": 2**28 + 1}, "a sequence of 268435457 rows: the CUDA kernels take at most 268435456"),
        ({"seq_k": 2**28 + 1}, "a sequence of 268435457 rows"),
        ({"heads": 3}, "heads must be a multiple of kv_heads"),
    ],
)
def test_what_the_kernels_do_not_compute_is_refused(wrong: dict[str, Any], message: str) -> None:
    for plan in (forward, backward):
        with pytest.raises(ValueError, match=message):
            plan(**wrong)


def test_missing_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="workspace is null"):
        backward(room=0)
    with pytest.raises(ValueError, match="shared_bytes is 1024: allowed are"):
        forward(shared_bytes=1024)


@pytest.mark.skipif(bool(_C.cuda_kernels()), reason="this build has CUDA kernels")
def test_a_build_without_kernels_says_so() -> None:
    assert _C.cuda_driver_version() == 0
    for run in (lambda: _C.cuda_launch(forward(), 0, 0), lambda: _C.cuda_shared_bytes(0)):
        with pytest.raises(RuntimeError, match=r"fastbert\._C has no kernels"):
            run()
