"""Whole training steps beside the same model in transformers: forward, backward, clipping and fused AdamW.

Both start from the same weights and see the same tokens: ours packed, transformers' padded on the right to the longest
sequence, with attention_mask. Neither collation nor tokenisation is on the clock. Dropout is 0.1 on both sides.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from machine import attention_backend, multiplies_bf16
from pairs import Row, Versus
from torch import Tensor, nn

from fastbert.models import BertConfig, BertForPreTraining, BertForSequenceClassification, PretrainedModel
from fastbert.packing import IGNORE_INDEX, PackedBatch

VOCABULARY = 30522
FIRST_WORD = 1000  # the ids below are special or unused in bert-base-uncased

each_precision = pytest.mark.parametrize(
    "precision",
    [
        "float32",
        pytest.param(
            "bfloat16",
            marks=pytest.mark.skipif(
                not multiplies_bf16(), reason="bfloat16 products are emulated on this processor; it trains in float32"
            ),
        ),
    ],
)


@dataclass(frozen=True)
class Batch:
    """The same sequences packed and padded, targets included."""

    packed: PackedBatch
    padded: dict[str, Tensor]


def classification_batch(lengths: Tensor) -> Batch:
    """Random words with one of two labels each."""
    tokens = [torch.randint(FIRST_WORD, VOCABULARY, (n,)) for n in lengths.tolist()]
    labels = torch.randint(0, 2, (len(tokens),))
    packed = PackedBatch.from_sequences([t.tolist() for t in tokens], labels=labels)
    return Batch(packed, {**_padded(tokens), "labels": labels})


def pretraining_batch(lengths: Tensor) -> Batch:
    """Random words of which 15% are to be predicted, in pairs that follow each other or not."""
    tokens = [torch.randint(FIRST_WORD, VOCABULARY, (n,)) for n in lengths.tolist()]
    targets = [t.where(torch.rand(t.shape) < 0.15, IGNORE_INDEX) for t in tokens]
    segments = [(torch.arange(len(t)) >= len(t) // 2).long() for t in tokens]
    follows = torch.randint(0, 2, (len(tokens),))
    packed = PackedBatch.from_sequences(
        [t.tolist() for t in tokens],
        token_type_ids=[s.tolist() for s in segments],
        token_labels=[t.tolist() for t in targets],
        next_sentence_label=follows,
    )
    padded = {
        **_padded(tokens),
        "token_type_ids": nn.utils.rnn.pad_sequence(segments, batch_first=True),
        "labels": nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORE_INDEX),
        "next_sentence_label": follows,
    }
    return Batch(packed, padded)


@each_precision
def test_minilm_finetuning(versus: Versus, full: bool, tmp_path: Path, precision: str) -> None:
    """A classifier of MiniLM's shape on 32 short texts."""
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    batch = classification_batch(torch.randint(8, 65, (32,)))
    compare_steps(
        versus, "MiniLM fine-tuning step", BertForSequenceClassification(config), batch, precision, tmp_path, full
    )


@pytest.mark.costly(360, "BERT-base")
@each_precision
@pytest.mark.parametrize("seq", [128, 512])
def test_bert_base_pretraining(versus: Versus, full: bool, tmp_path: Path, seq: int, precision: str) -> None:
    """Masked LM and next sentences on 4,096 tokens with their padding, of lengths uniform in [seq / 8, seq]."""
    lengths = torch.randint(seq // 8, seq + 1, (4096 // seq,))
    lengths[0] = seq  # padding to the longest then means 4,096 tokens
    batch = pretraining_batch(lengths)
    compare_steps(
        versus, "BERT-base MLM + NSP step", BertForPreTraining(BertConfig()), batch, precision, tmp_path, full
    )


def compare_steps(
    versus: Versus,
    work: str,
    ours: PretrainedModel,
    batch: Batch,
    precision: str,
    directory: Path,
    full: bool,
) -> None:
    """One row: a step of ours, of transformers with its sdpa attention and, where wanted, of that compiled."""
    theirs = transformers_model(ours, directory)

    def our_loss() -> Tensor:
        return torch.stack([term.mean() for term in ours.loss_terms(batch.packed).values()]).sum()

    def their_loss(model: Callable[..., Any] = theirs) -> Tensor:
        loss: Tensor = model(**batch.padded).loss
        return loss

    check_equal_losses(ours, our_loss, theirs, their_loss)
    peers = {"transformers": training_step(theirs, their_loss, precision)}
    if full:
        compiled = torch.compile(theirs)
        peers["transformers_compiled"] = training_step(theirs, lambda: their_loss(compiled), precision)
    config, tokens = ours.config, batch.packed.total_tokens
    rows, columns = batch.padded["input_ids"].shape
    versus(
        training_step(ours, our_loss, precision),
        Row(
            work=work,
            shape=f"{rows} x {columns}",
            dtype=precision if precision == "float32" else f"autocast {precision}",
            variant=f"{tokens} of {rows * columns} tokens",
            backend=attention_backend(
                getattr(torch, precision),
                batch=rows,
                seq=batch.packed.max_seqlen,
                heads=config.num_attention_heads,
                head_dim=config.head_dim,
                varlen=True,
                dropout=True,
            ),
            amount=tokens,
            unit="tokens",
        ),
        agree=None,  # dropout draws other bits on each side
        **peers,
    )


def transformers_model(ours: PretrainedModel, directory: Path) -> Any:
    """Their class of the same name with the same weights."""
    # Imported here: it takes seconds, for which the other suites and a mere collection need not wait.
    transformers = importlib.import_module("transformers")
    ours.save_pretrained(directory)
    return getattr(transformers, type(ours).__name__).from_pretrained(directory, attn_implementation="sdpa")


def check_equal_losses(
    ours: nn.Module, our_loss: Callable[[], Tensor], theirs: nn.Module, their_loss: Callable[[], Tensor]
) -> None:
    """Without dropout both sides must compute one loss."""
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(our_loss(), their_loss(), rtol=1e-4, atol=1e-4)
    ours.train()
    theirs.train()


def training_step(model: nn.Module, loss: Callable[[], Tensor], precision: str) -> Callable[[], Tensor]:
    """An update of all weights; the same recipe for every side."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)

    def step() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            value = loss()
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return value.detach()

    return step


def _padded(tokens: list[Tensor]) -> dict[str, Tensor]:
    return {
        "input_ids": nn.utils.rnn.pad_sequence(tokens, batch_first=True),
        "attention_mask": nn.utils.rnn.pad_sequence([torch.ones_like(t) for t in tokens], batch_first=True),
    }
