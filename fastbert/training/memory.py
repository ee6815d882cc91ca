"""Out of memory: what to change, said where it happens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from fastbert.training.config import TrainingConfig


@contextlib.contextmanager
def memory_advice(config: TrainingConfig) -> Iterator[None]:
    """Memory that runs out becomes a torch.OutOfMemoryError that names the settings to change."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        change = (
            f"lower tokens_per_batch (now {config.tokens_per_batch}; a higher gradient_accumulation makes up for it)"
        )
        checkpointing = "" if config.gradient_checkpointing else ", set gradient_checkpointing"
        message = f"out of memory: {change}{checkpointing} or shorten max_length (now {config.max_length})"
        raise torch.OutOfMemoryError(message) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on a GPU or on the host."""
    # On the CPU torch raises a plain RuntimeError, whose text begins with the place in its source.
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
