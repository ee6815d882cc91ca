"""torch.compile makes one graph of a training step, torch.export one program of a model, for any lengths."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any

import huggingface_peers as peers
import pytest
import torch
from torch import Tensor
from torch._dynamo import config

from fastbert.models import PretrainedModel, architecture
from fastbert.packing import PackedBatch

BUCKET = 24
LENGTHS = [(6, 2, 4), (9, 1, 3), (24, 11, 17), (5, 5, 20)]
TASKS = ("model", "pretraining", "classification", "token-classification", "question-answering")
# Which tokens there are, and which have a target, decides shapes; and the first graph has to do for all lengths.
in_one_graph = config.patch(capture_dynamic_output_shape_ops=True, error_on_recompile=True)


@pytest.fixture(autouse=True)
def no_other_graphs() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def build(family: str, purpose: str, **overrides: Any) -> PretrainedModel:
    torch.manual_seed(0)
    model: PretrainedModel = architecture(family, purpose)(peers.our_config(family, **overrides))
    return model


def packed(family: str, lengths: tuple[int, ...]) -> PackedBatch:
    sequences = [[5 + (3 * i + n) % 40 for i in range(n)] for n in lengths]
    labels = [[token if i % 3 == 0 else -100 for i, token in enumerate(tokens)] for tokens in sequences]
    batch = PackedBatch.from_sequences(
        sequences,
        token_labels=labels if family == "bert" else None,
        next_sentence_label=torch.tensor([0, 1, 1]) if family == "bert" else None,
    )
    return dataclasses.replace(batch, max_seqlen=BUCKET)


def step(model: PretrainedModel, losses: Callable[[PackedBatch], Any], batch: PackedBatch) -> list[Tensor]:
    """The loss and its gradients."""
    torch.manual_seed(1)
    loss = torch.stack([term.mean() for term in losses(batch).values()]).sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [loss.detach(), *(x for x in gradients if x is not None)]


@in_one_graph
def check_step(family: str, backend: str, **tolerances: float) -> None:
    dropout = 0.0 if backend == "inductor" else 0.1  # inductor draws its random numbers in an order of its own
    names = ("embedding_dropout_prob", "hidden_dropout_prob", "attention_probs_dropout_prob")
    model = build(family, "pretraining", **dict.fromkeys(names, dropout)).train()
    compiled = torch.compile(model.loss_terms, fullgraph=True, dynamic=True, backend=backend)
    for lengths in LENGTHS:
        batch = packed(family, lengths)
        for found, wanted in zip(step(model, compiled, batch), step(model, model.loss_terms, batch), strict=True):
            torch.testing.assert_close(found, wanted, **tolerances)


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_a_training_step_is_one_graph_for_all_lengths(family: str) -> None:
    check_step(family, "aot_eager", rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", peers.FAMILIES)
def test_a_training_step_on_compiled_kernels(family: str) -> None:
    check_step(family, "inductor", rtol=1e-4, atol=1e-5)


def padded(lengths: tuple[int, ...]) -> dict[str, Tensor]:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    columns = torch.arange(max(lengths)).expand(mask.shape)
    return {"input_ids": 5 + (3 * columns + columns.shape[0]) % 40, "attention_mask": mask.long()}


def assert_same(found: Any, wanted: Any) -> None:
    assert list(found) == list(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=0)


@in_one_graph
@pytest.mark.parametrize("family", peers.FAMILIES)
def test_a_padded_forward_is_one_graph(family: str) -> None:
    model = build(family, "classification").eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths in LENGTHS:
        assert_same(compiled(**padded(lengths)), model(**padded(lengths)))


@pytest.mark.parametrize("family", peers.FAMILIES)
@pytest.mark.parametrize("purpose", TASKS)
def test_an_exported_model_takes_other_lengths(family: str, purpose: str) -> None:
    model = build(family, purpose).eval()
    batch, seq = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("seq", min=2, max=BUCKET)
    inputs = padded(LENGTHS[0])
    shapes = {name: {0: batch, 1: seq} for name in inputs}
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (), inputs, dynamic_shapes=shapes), file)
    file.seek(0)
    program = torch.export.load(file).module()
    for lengths in ((24, 11, 17, 1), (3,)):
        assert_same(program(**padded(lengths)), model(**padded(lengths)))
