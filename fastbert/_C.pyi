"""The compiled kernels. They take addresses, not tensors: the caller owns the memory and keeps it alive."""

from collections.abc import Sequence
from typing import Literal, TypedDict

class BuildInfo(TypedDict):
    version: str
    compiler: str
    cpp_standard: int
    flags: str
    cuda: str
    cuda_runtime: str
    cuda_binaries: str
    cuda_ptx: str
    openmp: str
    openmp_library: str

def build_info() -> BuildInfo:
    """How the extension was built.

    ``cuda`` says for which GPUs there are kernels, or why there are none. ``cuda_runtime`` is the CUDA they are built
    with, such as "13.0", ``cuda_binaries`` and ``cuda_ptx`` the compute capabilities they are built for, such as
    "80;90"; all three are empty where there are none. ``openmp_library`` is the file of the OpenMP runtime that its
    calls reach.
    """

def instruction_set() -> Literal["amx", "avx512_bf16", "avx512", "avx2", "generic"]:
    """The instruction set in use: the machine's best, or the lower one that FASTBERT_CPU_ISA named at import.

    Raises:
        ValueError: FASTBERT_CPU_ISA names an unknown set, or one this machine does not have.
    """

def philox4x32(counter: Sequence[int], key: Sequence[int], rounds: int = 7) -> tuple[int, int, int, int]:
    """Philox4x32 (Salmon et al., SC 2011): four random 32-bit words from a counter of four and a key of two."""

def philox_attention_bytes(
    pointer: int,
    batch: int,
    heads: int,
    seq_q: int,
    seq_k: int,
    seed: int,
    offset: int,
    num_threads: int,
    first_sequence: int = 0,
    first_head: int = 0,
    total_heads: int | None = None,
) -> None:
    """Fill a contiguous (batch, heads, seq_q, seq_k) uint8 buffer with the random bytes of attention dropout.

    Args:
        pointer: address of the buffer; may be 0 when it is empty.
        seed: the 64-bit key, in [0, 2^64).
        offset: the counter's last word, modulo 2^32.
        num_threads: at least 1; the bytes do not depend on it.
        first_sequence: of the buffer, in the call it is a part of.
        first_head: as first_sequence.
        total_heads: of that call; None = first_head + heads.
    """

def philox_elementwise_bytes(
    pointer: int, rows: int, columns: int, seed: int, offset: int, site: int, num_threads: int
) -> None:
    """Fill a contiguous (rows, columns) uint8 buffer with the random bytes of element-wise dropout.

    Args:
        pointer: address of the buffer; may be 0 when it is empty.
        seed: the 64-bit key, in [0, 2^64).
        offset: the counter's last word, modulo 2^32.
        site: which dropout of the model this is, in [0, 2^31).
        num_threads: at least 1; the bytes do not depend on it.
    """

class AttentionProblem:
    """One attention call without its tensors.

    It holds addresses: the tensors behind them must outlive its use.
    """

    def __init__(
        self,
        dtype: Literal["float32", "bfloat16", "float16"],
        batch: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        seq_q: int,
        seq_k: int,
        total_q: int,
        total_k: int,
        cu_seqlens_q: int,
        cu_seqlens_k: int,
        key_padding_mask: int,
        window_left: int | None,
        window_right: int | None,
        scale: float,
        dropout_threshold: int,
        rng: int,
        num_threads: int,
    ) -> None:
        """Describe a call; whoever computes it checks what is said here.

        Args:
            dtype: of q, k, v, out and their gradients.
            batch: sequences.
            heads: of the queries, a multiple of kv_heads; batch * heads is at most 2^32.
            kv_heads: of keys and values.
            head_dim: 1 to 256.
            seq_q: query length; in a packed call an upper bound of the lengths.
            seq_k: as seq_q, of the keys.
            total_q: rows of the packed queries; 0 in a dense call.
            total_k: as total_q, of the keys.
            cu_seqlens_q: address of int32 (batch + 1,); 0 in a dense call.
            cu_seqlens_k: as cu_seqlens_q.
            key_padding_mask: address of bool (batch, seq_k), contiguous, True = a key; 0 = all are, as in every packed
                call.
            window_left: query i sees no key left of i + d - window_left, with d = seq_k - seq_q of its sequence; None =
                unbounded. May be negative.
            window_right: as window_left, to the right. Causal is 0.
            scale: of the scores.
            dropout_threshold: 0 = no dropout, else 1 to 255: a weight survives where its random byte is at least this.
            rng: address of int64 (2,), seed and offset; may be 0 where there is no dropout.
            num_threads: at least 1; results do not depend on it.
        """

def attention_forward(
    problem: AttentionProblem,
    q: int,
    q_strides: Sequence[int],
    k: int,
    k_strides: Sequence[int],
    v: int,
    v_strides: Sequence[int],
    out: int,
    lse: int,
) -> None:
    """Write softmax(scale * q k^T) v and its log-sum-exp. An address may be 0 where its tensor is empty.

    Args:
        problem: the call.
        q: (batch, seq_q, heads, head_dim), or packed (total_q, heads, head_dim); the last dimension has stride 1.
        q_strides: of batch, row and head, in elements; a packed tensor's batch has 0.
        k: (batch, seq_k, kv_heads, head_dim), or packed (total_k, kv_heads, head_dim).
        k_strides: as q_strides.
        v: as k.
        v_strides: as q_strides.
        out: of q's shape, contiguous.
        lse: float32 (batch, heads, seq_q), or packed (heads, total_q), contiguous.

    Raises:
        ValueError: a size out of range, an address of 0 where there is something to read or write, or a packed sequence
            longer than the call's bound.
    """

def attention_backward(
    problem: AttentionProblem,
    q: int,
    q_strides: Sequence[int],
    k: int,
    k_strides: Sequence[int],
    v: int,
    v_strides: Sequence[int],
    out: int,
    lse: int,
    dout: int,
    dout_strides: Sequence[int],
    dlse: int,
    dq: int,
    dk: int,
    dv: int,
) -> None:
    """Write the gradients of q, k and v, contiguous. What the forward took and gave comes as it was there.

    Args:
        dout: gradient of out, of its shape, with the last dimension of stride 1; 0 = zeros.
        dout_strides: as q_strides.
        dlse: gradient of lse, contiguous; 0 = zeros.

    Raises:
        ValueError: as :func:`attention_forward`.
    """

class KernelLaunch:
    """One launch of a plan."""

    @property
    def kernel(self) -> str:
        """Name of the kernel's symbol."""
    @property
    def grid(self) -> list[int]:
        """Blocks in x, y and z."""
    @property
    def threads(self) -> int:
        """Threads of a block."""
    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""

class AttentionPlan:
    """How a call is launched on a GPU, one kernel after the other. It holds addresses, as the problem does."""

    @property
    def launches(self) -> list[KernelLaunch]:
        """In order; empty where there is nothing to write."""
    @property
    def params(self) -> bytes:
        """The struct that every kernel of the plan takes as its one parameter (csrc/cuda/kernel_params.h)."""

def attention_forward_plan(
    problem: AttentionProblem,
    shared_bytes: int,
    q: int,
    q_strides: Sequence[int],
    k: int,
    k_strides: Sequence[int],
    v: int,
    v_strides: Sequence[int],
    out: int,
    lse: int,
) -> AttentionPlan:
    """How :func:`attention_forward` is launched on a GPU. Addresses, ``rng`` included, are never read.

    Args:
        problem: bfloat16 or float16, head_dim a multiple of 8; num_threads is ignored.
        shared_bytes: shared memory that a block may have on the GPU, see :func:`cuda_shared_bytes`.
        q: as in :func:`attention_forward`; addresses of q, k and v are multiples of 16 and strides multiples of 8.

    Raises:
        ValueError: as :func:`attention_forward`, or a call that the kernels do not compute.
    """

def attention_backward_workspace(problem: AttentionProblem, shared_bytes: int, deterministic: bool) -> int:
    """Bytes of device memory, aligned to 256, that the backward needs beside its tensors; 0 where it needs none."""

def attention_backward_plan(
    problem: AttentionProblem,
    shared_bytes: int,
    deterministic: bool,
    workspace: int,
    q: int,
    q_strides: Sequence[int],
    k: int,
    k_strides: Sequence[int],
    v: int,
    v_strides: Sequence[int],
    out: int,
    lse: int,
    dout: int,
    dout_strides: Sequence[int],
    dlse: int,
    dq: int,
    dk: int,
    dv: int,
) -> AttentionPlan:
    """How :func:`attention_backward` is launched on a GPU.

    Args:
        problem: as :func:`attention_forward_plan`, and so on.
        deterministic: sums are taken in an order that does not depend on which block comes first.
        workspace: address of as many bytes as :func:`attention_backward_workspace` says, whatever they hold.

    Raises:
        ValueError: as :func:`attention_forward_plan`.
    """

def cuda_kernels() -> list[str]:
    """Names of the CUDA kernels in this build, sorted; none in a build without CUDA."""

def cuda_driver_version() -> int:
    """The newest CUDA that the NVIDIA driver supports, as 12080; 0 without a driver or in a build without CUDA."""

def cuda_shared_bytes(device: int) -> int:
    """Shared memory that a block may have on a GPU.

    Raises:
        RuntimeError: there is no such GPU, or the build is one without CUDA.
    """

def cuda_launch(plan: AttentionPlan, device: int, stream: int) -> None:
    """Launch a plan on a stream (a cudaStream_t) of a GPU, and return before it is done.

    Raises:
        RuntimeError: CUDA refused; kernel, grid, shapes and CUDA's words are named. Or the build is one without CUDA.
    """

# Element-wise operators. Arrays are contiguous (rows, columns) of the named dtype, "float32", "bfloat16" or "float16";
# parameters and statistics are float32. `threshold` 0 is no dropout, and `rng` then is 0; else it is the address of two
# 64-bit integers, seed and offset. Nothing depends on `num_threads`.

def dropout_add(
    dtype: str,
    rows: int,
    columns: int,
    x: int,
    residual: int,
    out: int,
    threshold: int,
    rng: int,
    site: int,
    num_threads: int,
) -> None:
    """Write out = residual + dropout(x), or dropout(x) where residual is 0."""

def layer_norm_forward(
    dtype: str,
    rows: int,
    columns: int,
    x: int,
    residual: int,
    weight: int,
    bias: int,
    eps: float,
    out: int,
    total: int,
    mean: int,
    rstd: int,
    threshold: int,
    rng: int,
    site: int,
    num_threads: int,
) -> None:
    """Write out = LayerNorm(residual + dropout(x)), mean and rstd (rows,), and the sum where total has an address."""

def layer_norm_backward(
    dtype: str,
    rows: int,
    columns: int,
    dout: int,
    dtotal: int,
    total: int,
    x: int,
    residual: int,
    weight: int,
    mean: int,
    rstd: int,
    dx: int,
    dresidual: int,
    dweight: int,
    dbias: int,
    threshold: int,
    rng: int,
    site: int,
    num_threads: int,
) -> None:
    """Write the gradients. dtotal may be 0; with the sum in total, x and residual may; without dropout, dx."""

def bias_gelu_forward(
    dtype: str, tanh: bool, rows: int, columns: int, x: int, bias: int, out: int, num_threads: int
) -> None:
    """Write out = GELU(x + bias)."""

def bias_gelu_backward(
    dtype: str, tanh: bool, rows: int, columns: int, dout: int, x: int, bias: int, dx: int, dbias: int, num_threads: int
) -> None:
    """Write the gradients."""

def cross_entropy_forward(
    dtype: str,
    rows: int,
    classes: int,
    logits: int,
    targets: int,
    ignore_index: int,
    losses: int,
    total: int,
    largest: int,
    log_rest: int,
    num_threads: int,
) -> None:
    """Write losses (rows,), their sum where total has an address, and what the backward needs of each row.

    Raises:
        ValueError: a target that is neither ignore_index nor a class.
    """

def cross_entropy_backward(
    dtype: str,
    rows: int,
    classes: int,
    dlosses: int,
    dlosses_stride: int,
    logits: int,
    targets: int,
    ignore_index: int,
    largest: int,
    log_rest: int,
    dlogits: int,
    num_threads: int,
) -> None:
    """Write dlogits. dlosses_stride is 1, or 0 for one gradient that all rows share."""
