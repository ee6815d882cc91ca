"""Held-out metrics: losses per target, and classification metrics.

Every example counts once, on any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from fastbert.data import EpochView, collate, token_budget_batches
from fastbert.models import PretrainedModel
from fastbert.packing import PackedBatch


def batches_of_this_process(view: EpochView, tokens_per_batch: int, accelerator: Accelerator) -> Iterator[PackedBatch]:
    """This process's share of the examples, packed, on its device."""
    batches = token_budget_batches(view.lengths, tokens_per_batch, seed=0, epoch=0, shuffle=False)
    for indices in batches[accelerator.process_index :: accelerator.num_processes]:
        yield collate([view[i] for i in indices]).to(accelerator.device)


@torch.no_grad()
def evaluate_losses(
    model: PretrainedModel, view: EpochView, *, tokens_per_batch: int, accelerator: Accelerator
) -> dict[str, float]:
    """The mean of each loss term over its targets, their sum "loss", and for a language model its perplexity."""
    model.eval()
    # Every process reduces the same terms in the same order, also one that has no batch.
    names = sorted(model.target_counts(collate([view[0]])))
    totals = torch.zeros(len(names), 2, dtype=torch.float64, device=accelerator.device)
    for batch in batches_of_this_process(view, tokens_per_batch, accelerator):
        terms = model.loss_terms(batch)
        totals += torch.stack([torch.stack([terms[name].sum.double(), terms[name].count.double()]) for name in names])
    sums_and_counts = zip(names, accelerator.reduce(totals).tolist(), strict=True)
    means = {name: total / max(count, 1.0) for name, (total, count) in sums_and_counts}
    metrics = {"loss": sum(means.values()), **means}
    if "lm" in means:
        metrics["perplexity"] = math.exp(min(means["lm"], 700.0))
    return metrics


@torch.no_grad()
def evaluate_classification(
    model: PretrainedModel, view: EpochView, *, tokens_per_batch: int, accelerator: Accelerator
) -> dict[str, float]:
    """Mean cross entropy ("loss"), accuracy and macro F1."""
    model.eval()
    classes = model.config.num_labels
    metrics = MetricCollection(
        {"accuracy": MulticlassAccuracy(classes, average="micro"), "f1": MulticlassF1Score(classes, average="macro")}
    ).to(accelerator.device)
    loss = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for batch in batches_of_this_process(view, tokens_per_batch, accelerator):
        output = model(batch)
        metrics.update(output.logits, batch.labels)
        loss += torch.stack([output.loss.double() * batch.num_sequences, loss.new_tensor(batch.num_sequences)])
    total, count = accelerator.reduce(loss).tolist()
    return {"loss": total / max(count, 1.0), **{name: float(value) for name, value in metrics.compute().items()}}
