"""The micro-batches of a step that went wrong, kept so that it can be looked at again.

``output/failed-step-00000009/`` holds for every process, here the first, ``step-0.json`` (the step, its loss terms,
where in the data it stood and which examples it took) and ``batches-0.safetensors``: its packed micro-batches.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastbert.files import replaced
from fastbert.packing import PackedBatch
from fastbert.training.stream import Share

_NUMBERS = ("max_seqlen", "num_choices")


def save_failed_step(root: Path, step: int, rank: int, shares: Sequence[Share], facts: Mapping[str, Any]) -> Path:
    """Write what one process computed in a step, and what is known of it; returns the directory."""
    directory = root / f"failed-step-{step:08d}"
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, str] = {}
    for i, share in enumerate(shares):
        for field in dataclasses.fields(share.batch):
            value = getattr(share.batch, field.name)
            if isinstance(value, Tensor):
                tensors[f"{i}.{field.name}"] = value.cpu().contiguous()
            elif field.name in _NUMBERS:
                numbers[f"{i}.{field.name}"] = str(value)
    with replaced(directory / f"batches-{rank}.safetensors") as aside:
        save_file(tensors, aside, metadata={"count": str(len(shares)), **numbers})
    known = {"step": step, **facts, "examples": [list(share.indices) for share in shares]}
    with replaced(directory / f"step-{rank}.json") as aside:
        aside.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return directory


def load_failed_batches(directory: str | Path, rank: int = 0) -> list[PackedBatch]:
    """The micro-batches that :func:`save_failed_step` kept of one process, on the CPU.

    ``model.loss_terms(batch)`` computes their losses again; the weights are those of the run's last checkpoint.
    """
    with safe_open(Path(directory) / f"batches-{rank}.safetensors", framework="pt") as file:
        metadata = file.metadata()
        batches = []
        for i in range(int(metadata["count"])):
            fields: dict[str, Any] = {name: int(metadata[f"{i}.{name}"]) for name in _NUMBERS}
            names = [key for key in file.keys() if key.startswith(f"{i}.")]  # noqa: SIM118 -- it is no mapping
            fields.update({key.partition(".")[2]: file.get_tensor(key) for key in names})
            batches.append(PackedBatch(**fields))
    return batches
