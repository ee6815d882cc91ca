"""Greedy and beam search give transformers' token ids, for 50 prompts of five lengths and random weights."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import huggingface_peers as peers
import pytest
import torch
from torch import Tensor

from fastbert.models import GPTForPreTraining
from fastbert.packing import PackedBatch

NAMES = {"openai-gpt": "OpenAIGPTLMHeadModel", "gpt2": "GPT2LMHeadModel"}
LENGTHS = (1, 2, 4, 7, 9)
NEW = 8
PAD = 1

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "repetition": {"repetition_penalty": 1.4},
    "beams": {"num_beams": 3},
    "long": {"num_beams": 4, "length_penalty": 2.0, "num_return_sequences": 2},
    "short": {"num_beams": 4, "length_penalty": -1.0, "early_stopping": True},
    "half-hearted": {"num_beams": 2, "length_penalty": 1.5},
    "never": {"num_beams": 2, "length_penalty": 1.5, "early_stopping": "never", "num_return_sequences": 2},
    "unpenalised": {"num_beams": 2, "length_penalty": 0.0, "repetition_penalty": 1.5},
}


@pytest.fixture(scope="module", params=list(NAMES))
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, list[int]]:
    """Ours, theirs, and two tokens that greedy search says often: end tokens that end many continuations."""
    directory = tmp_path_factory.mktemp(request.param)
    ours, reference = peers.pair(request.param, GPTForPreTraining, NAMES[request.param], directory)
    said = torch.tensor(theirs(reference, {"eos_token_id": []}))
    return ours, reference, torch.bincount(said.flatten(), minlength=peers.VOCAB).topk(2).indices.tolist()


def prompts() -> list[Tensor]:
    """Ten prompts of each length, (10, length)."""
    torch.manual_seed(5)
    return [torch.randint(5, peers.VOCAB, (10, length)) for length in LENGTHS]


def theirs(reference: Any, options: dict[str, Any]) -> list[list[int]]:
    """Their new tokens up to the end token; prompts of one length at a time, so that nothing is padded."""
    rows: list[list[int]] = []
    for group in prompts():
        out = reference.generate(
            group,
            attention_mask=torch.ones_like(group),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=PAD,
            use_cache=reference.config.model_type == "gpt2",  # their GPT-1 has none
            **options,
        )
        rows += [_until_end(row, options["eos_token_id"]) for row in out[:, group.shape[1] :].tolist()]
    return rows


def _until_end(row: list[int], ends: list[int]) -> list[int]:
    return next((row[: i + 1] for i, token in enumerate(row) if token in ends), row)


@pytest.mark.parametrize("search", list(SEARCHES))
def test_ids_equal_theirs(models: tuple[Any, Any, list[int]], search: str) -> None:
    ours, reference, ends = models
    options = {**SEARCHES[search], "eos_token_id": ends}
    expected = theirs(reference, options)
    packed = PackedBatch.from_sequences([row.tolist() for group in prompts() for row in group])
    answer = ours.generate(packed, max_new_tokens=NEW, **options)
    bounds = answer.cu_seqlens.tolist()
    copies = options.get("num_return_sequences", 1)
    starts = [length for length in LENGTHS for _ in range(10 * copies)]
    actual = [
        answer.input_ids[first + skipped : end].tolist()
        for first, skipped, end in zip(bounds[:-1], starts, bounds[1:], strict=True)
    ]
    assert actual == expected
    assert len(expected) == 50 * copies
    assert len({token for row in expected for token in row}) > 5  # not one token throughout
    if search not in ("long", "never"):  # which favour length
        assert any(len(row) < NEW for row in expected)


def test_beams_of_padded_prompts_equal_those_of_packed_ones(models: tuple[Any, Any, list[int]]) -> None:
    ours, _, ends = models
    options = {**SEARCHES["never"], "eos_token_id": ends, "max_new_tokens": NEW}
    rows = [group[0].tolist() for group in prompts()]
    packed = ours.generate(PackedBatch.from_sequences(rows), **options)
    bounds = packed.cu_seqlens.tolist()
    width = max(LENGTHS)
    for side in ("left", "right"):
        fill = [[0] * (width - len(row)) for row in rows]
        order = [(f, r) if side == "left" else (r, f) for f, r in zip(fill, rows, strict=True)]
        ids = torch.tensor([a + b for a, b in order])
        padded = ours.generate(ids, (ids != 0).long(), pad_token_id=PAD, **options)
        assert torch.equal(padded[:, :width], ids.repeat_interleave(2, dim=0))
        for i, (first, end) in enumerate(pairwise(bounds)):
            new = packed.input_ids[first + len(rows[i // 2]) : end].tolist()
            assert padded[i, width:].tolist() == new + [PAD] * (padded.shape[1] - width - len(new))
