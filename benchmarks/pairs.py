"""One row of the report: what is timed against what, how often, and what is written down."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

# Seconds that all rounds of one row aim at, and what they may take where five rounds need more.
AIM, LIMIT = 2.0, 10.0
ROUNDS, ROUNDS_OF_LONG_ROWS, MOST_ROUNDS = 5, 3, 300

Call = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        work: the kind of work, the heading of its table.
        shape: sizes, as the table shows them.
        dtype: of both sides.
        variant: what tells rows of one shape and dtype apart, such as "causal".
        backend: the attention backend that serves our side; "" where there is no attention.
        amount: what one call has to do, in ``unit``; what our side does a second is derived from it.
        unit: "GFLOP", "GB" or "tokens".
    """

    work: str
    shape: str
    dtype: str
    variant: str = ""
    backend: str = ""
    amount: float = 0.0
    unit: str = ""


class Versus(Protocol):
    """The fixture ``versus``: :func:`measure`, with the name of a peer in the report as its keyword."""

    def __call__(
        self, ours: Call, row: Row, *, agree: Callable[[Any, Any], None] | None = None, **peers: Call
    ) -> None: ...


def rounds_for(seconds: float) -> int:
    """How many rounds a row gets, from the seconds that one round of all its sides takes.

    As many as fit in 2 seconds and at least 5, unless these take more than 10 seconds: then what fits in 10, and at
    least 3, the fewest whose median leaves an outlier out.
    """
    if ROUNDS * seconds <= LIMIT:
        return min(MOST_ROUNDS, max(ROUNDS, int(AIM / seconds)))
    return max(ROUNDS_OF_LONG_ROWS, int(LIMIT / seconds))


def compare(ours: Sequence[float], peers: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Medians and ratios of seconds measured round by round.

    The ratio is that of the medians, so that a reader can check it against the two columns beside it; the quartiles
    are those of the rounds' own ratios and say how far to trust it.
    """
    median = statistics.median(ours)
    compared = {}
    for name, seconds in peers.items():
        single = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
        low, _, high = statistics.quantiles(single, n=4, method="inclusive")
        theirs = statistics.median(seconds)
        compared[name] = {"median": theirs, "ratio": theirs / median, "quartiles": [low, high]}
    return {"ours": median, "peers": compared}


def measure(
    benchmark: Any,
    ours: Call,
    row: Row,
    peers: Mapping[str, Call],
    agree: Callable[[Any, Any], None] | None = None,
) -> dict[str, Any] | None:
    """Time ours and its peers in turns and leave the figures in ``benchmark.extra_info``.

    Every side is called once unmeasured (memory, thread pools and compiled graphs come into being there), then once to
    choose the number of rounds; a round then runs each peer once and ours once.

    Args:
        benchmark: pytest-benchmark's fixture.
        ours: a call of the library.
        row: its description.
        peers: name -> the same work done by others.
        agree: called with the results of ours and of each peer before anything is timed; raises where they differ.

    Returns:
        What was left in ``extra_info``, or None where pytest-benchmark was told not to measure.
    """
    result = ours()
    for peer in peers.values():
        theirs = peer()
        if agree is not None:
            agree(result, theirs)
    del result
    if benchmark.disabled:
        benchmark.pedantic(ours)
        return None

    benchmark.group = row.work
    times: dict[str, list[float]] = {name: [] for name in peers}

    def time_peers() -> None:
        for name, peer in peers.items():
            times[name].append(seconds_of(peer))

    rounds = rounds_for(seconds_of(ours) + sum(seconds_of(peer) for peer in peers.values()))
    # The setup of a round is not on our side's clock: it is where the peers have their turn.
    benchmark.pedantic(ours, setup=time_peers, rounds=rounds, warmup_rounds=0)
    benchmark.extra_info.update(
        dataclasses.asdict(row),
        rounds=rounds,
        threads=torch.get_num_threads(),
        **compare(benchmark.stats.stats.data, times),
    )
    return dict(benchmark.extra_info)


def seconds_of(call: Call) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """AssertionError unless the Frobenius norm of the difference is small beside that of the peer's result.

    Not a test of accuracy: it shows that both sides do the same work.
    """
    bound = {torch.float32: 1e-4, torch.bfloat16: 3e-2}[theirs.dtype]
    error = torch.linalg.vector_norm(ours.float() - theirs.float()) / torch.linalg.vector_norm(theirs.float())
    assert error <= bound, f"the sides differ by {float(error):.1e} of the peer's norm, allowed is {bound:.0e}"


def dtype_name(dtype: torch.dtype) -> str:
    """Such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def as_text(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Measured rows for the terminal, one line a peer."""
    columns = [
        (
            ", ".join(filter(None, [row["work"], row["shape"], row["dtype"], row["variant"]])),
            f"{1e3 * row['ours']:,.2f} ms",
            peer,
            f"{1e3 * figures['median']:,.2f} ms",
            f"{figures['ratio']:.2f}x",
        )
        for row in rows
        for peer, figures in row["peers"].items()
    ]
    name, *widths = (max(len(cell) for cell in column) for column in zip(*columns, strict=True))
    return [
        "  ".join([f"{cells[0]:<{name}}", *(f"{c:>{w}}" for c, w in zip(cells[1:], widths, strict=True))])
        for cells in columns
    ]
