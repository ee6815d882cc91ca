"""Held-out metrics: losses per target, and a task's own metrics.

Every example counts once, on any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from fastbert.data import EpochView, collate, token_budget_batches
from fastbert.models import PretrainedModel
from fastbert.packing import PackedBatch
from fastbert.training.tasks.definition import Array, TaskDefinition, TaskExamples


def batches_of_this_process(
    view: EpochView, tokens_per_batch: int, accelerator: Accelerator
) -> Iterator[tuple[list[int], PackedBatch]]:
    """This process's share of the examples: their indices, and them packed, on its device.

    All processes get as many batches, since a sharded model runs in all of them together; one that would have fewer
    gets some examples more, with no indices, which do not count.
    """
    batches = token_budget_batches(view.lengths, tokens_per_batch, seed=0, epoch=0, shuffle=False)
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    for indices in mine:
        yield indices, collate([view[i] for i in indices]).to(accelerator.device)
    if len(mine) * accelerator.num_processes < len(batches):
        yield [], collate([view[i] for i in batches[0]]).to(accelerator.device)


@torch.no_grad()
def evaluate_losses(
    model: PretrainedModel, view: EpochView, *, tokens_per_batch: int, accelerator: Accelerator
) -> dict[str, float]:
    """The mean of each loss term over its targets, their sum "loss", and for a language model its perplexity."""
    model.eval()
    # Every process reduces the same terms in the same order, also one that has no batch.
    names = sorted(model.target_counts(collate([view[0]])))
    totals = torch.zeros(len(names), 2, dtype=torch.float64, device=accelerator.device)
    for indices, batch in batches_of_this_process(view, tokens_per_batch, accelerator):
        terms = model.loss_terms(batch)
        if indices:
            sums_and_counts = [torch.stack([terms[name].sum.double(), terms[name].count.double()]) for name in names]
            totals += torch.stack(sums_and_counts)
    summed = zip(names, accelerator.reduce(totals).tolist(), strict=True)
    means = {name: total / max(count, 1.0) for name, (total, count) in summed}
    metrics = {"loss": sum(means.values()), **means}
    if "lm" in means:
        metrics["perplexity"] = math.exp(min(means["lm"], 700.0))
    return metrics


def evaluate_task(
    task: TaskDefinition[Any, Any],
    model: PretrainedModel,
    records: Sequence[Any],
    examples: TaskExamples,
    *,
    tokens_per_batch: int,
    accelerator: Accelerator,
) -> dict[str, float]:
    """The mean "loss" of labelled examples over their targets, 0 without any, and the task's metrics on the records."""
    outputs, loss = compute_outputs(task, model, examples, tokens_per_batch=tokens_per_batch, accelerator=accelerator)
    predictions = task.predict(records, examples, outputs, model.config)
    return {"loss": loss or 0.0, **task.measure(records, predictions, model.config)}


@torch.no_grad()
def compute_outputs(
    task: TaskDefinition[Any, Any],
    model: PretrainedModel,
    examples: TaskExamples,
    *,
    tokens_per_batch: int,
    accelerator: Accelerator,
) -> tuple[list[Array], float | None]:
    """The task's output for every example, in order, and their mean loss, None without targets. All processes share."""
    model.eval()
    outputs: dict[int, Array] = {}
    loss = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for indices, batch in batches_of_this_process(examples, tokens_per_batch, accelerator):
        output = model(batch)
        if not indices:
            continue
        outputs.update(zip(indices, task.outputs(output, batch), strict=True))
        if output.loss is not None:
            count = model.target_counts(batch)["task"].double()
            loss += torch.stack([output.loss.double() * count, count])
    if accelerator.num_processes > 1:
        outputs = {i: array for part in gather_object([outputs]) for i, array in part.items()}
    total, targets = accelerator.reduce(loss).tolist()
    return [outputs[i] for i in range(len(examples))], total / targets if targets else None
