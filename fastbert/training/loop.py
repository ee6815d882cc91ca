"""The training loop. BERT and GPT, pretraining and fine-tuning all run through :class:`Trainer`.

A step takes a *window*: the micro-batches of all processes that one update learns from. Every loss term (masked LM,
next sentence, LM, task) is summed over the whole window and divided by its own number of targets there; then the terms
are added. So the gradient does not depend on how a window is cut into micro-batches and processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from fastbert.models import LossTerm, PretrainedModel, architecture
from fastbert.packing import PackedBatch
from fastbert.training.checkpoint import (
    Checkpoint,
    generator_tensors,
    list_checkpoints,
    load_latest,
    optimizer_tensors,
    restore_generators,
    restore_optimizer,
    save_checkpoint,
)
from fastbert.training.config import RunResult, TrainingConfig
from fastbert.training.interrupt import Interrupted, interruptible
from fastbert.training.memory import memory_advice
from fastbert.training.meter import Meter, Window
from fastbert.training.model_setup import check_backend
from fastbert.training.optimizer import build_optimizer, set_learning_rate
from fastbert.training.precision import resolve_precision
from fastbert.training.recorder import Recorder, format_metrics
from fastbert.training.replay import save_failed_step
from fastbert.training.schedule import learning_rate_factor, warmup_steps
from fastbert.training.sharding import (
    gradients_kept,
    part_like,
    reshard,
    shard,
    sharding_wanted,
    whole,
    whole_model,
    whole_tensors,
)
from fastbert.training.stream import Position, Segment, Share, WindowStream

# Settings that may differ between a run and its resumption. The first change nothing that is computed; the others are
# how one goes on after a loss that was not finite.
_FREE_TO_CHANGE = {"output", "keep", "resume", "log_to", "save_every"} | {"learning_rate", "clip", "precision"}


@dataclass(frozen=True)
class Task:
    """What a run trains, and what pretraining and fine-tuning do not share.

    Attributes:
        title: shown beside the progress bar.
        model: the model, on the CPU.
        segments: training examples and how many steps to spend on them, in order.
        save_model: writes a model and the tokenizer into a directory.
        validate: metrics of the model on the held-out data, or None without such data.
        test: metrics of the final model on the test data, or None without such data.
        metric: the metric that chooses the best model.
        loss_options: keywords for ``model.loss_terms``.
        term_weights: weights of the loss terms; 1 where none is given.
        eval_every: steps between evaluations.
        early_stopping: evaluations without a better metric after which to stop.
    """

    title: str
    model: PretrainedModel
    segments: list[Segment]
    save_model: Callable[[PretrainedModel, Path], None]
    validate: Callable[[PretrainedModel], dict[str, float]] | None
    metric: str
    eval_every: int
    test: Callable[[PretrainedModel], dict[str, float]] | None = None
    loss_options: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    term_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    early_stopping: int | None = None


class LossTerms(nn.Module):
    """The model seen as packed batch -> loss terms, so that DDP and torch.compile wrap exactly what training runs."""

    def __init__(self, model: PretrainedModel, options: Mapping[str, bool], *, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        self.options = dict(options)
        self.loss_terms, self.tracing = model.loss_terms, contextlib.nullcontext()
        if compiled:
            self.loss_terms = torch.compile(model.loss_terms, dynamic=True)
            # Which tokens have a target decides shapes: without this a graph would end there.
            dynamo = importlib.import_module("torch._dynamo.config")  # a second that others need not wait
            self.tracing = dynamo.patch(capture_dynamic_output_shape_ops=True)

    def forward(self, batch: PackedBatch) -> dict[str, LossTerm]:
        with self.tracing:
            return self.loss_terms(batch, **self.options)


class Trainer:
    """Runs a :class:`Task` under a :class:`TrainingConfig`."""

    def __init__(self, config: TrainingConfig, task: Task, accelerator: Accelerator) -> None:
        # The configuration that is saved, and compared on resuming, says what "auto" meant here.
        precision = resolve_precision(config.precision, accelerator.device)
        self.config, self.task, self.accelerator = dataclasses.replace(config, precision=precision), task, accelerator
        self.output = Path(config.output)
        self.stream = WindowStream(
            task.segments,
            tokens_per_batch=config.tokens_per_batch,
            gradient_accumulation=config.gradient_accumulation,
            seed=config.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        self.model = task.model.to(accelerator.device)
        self.model.set_attention_backend(config.backend)
        check_backend(self.model, config.backend)
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.sharding = sharding_wanted()
        if self.sharding is not None:
            shard(self.model, self.sharding, accelerator)
        self.optimizer = build_optimizer(
            self.model, learning_rate=config.learning_rate, weight_decay=config.weight_decay
        )
        loss_module = LossTerms(self.model, task.loss_options, compiled=config.compile)
        self.loss_module = loss_module if self.sharding is not None else accelerator.prepare_model(loss_module)

        self.identity = self._identity()
        self.position = Position()
        self.initial: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.evaluations_since_best = 0

    def run(self) -> RunResult:
        """Train to the end, or to the interruption, and leave the best model in ``output``."""
        total = self.stream.total_steps
        warmup = warmup_steps(self.config.warmup, total)
        self.output.mkdir(parents=True, exist_ok=True)
        meter = Meter(self.task.term_weights, self.accelerator.device, every=max(1, total // 200))
        save_every = self.config.save_every or min(self.task.eval_every, max(1, total // 10), 1000)
        with (
            Recorder(
                self.accelerator, self.output, title=self.task.title, total_steps=total, log_to=self.config.log_to
            ) as recorder,
            interruptible() as interrupted,
        ):
            self._start(recorder)
            stop = self._out_of_patience()
            meter.start()
            for shares, after in self.stream.iterate(self.position) if not stop else ():
                factor = learning_rate_factor(self.position.step, total, warmup, self.config.schedule)
                set_learning_rate(self.optimizer, self.config.learning_rate * factor)
                window = self._agree(shares, interrupted=interrupted())
                with memory_advice(self.config):
                    sums, norm = self._step(shares, window.targets)
                self.position = after
                meter.add(sums, window, norm)

                step, last = after.step, after.step == total
                with meter.paused():
                    improved = False
                    if last or step % self.task.eval_every == 0:
                        improved = self._evaluate(recorder)
                    stop = last or window.interrupted or self._out_of_patience()
                    save = stop or improved or step % save_every == 0
                    if meter.due(step) or save:
                        values = meter.flush(self._sum_over_processes)
                        recorder.record(step, "train", {**values, "learning_rate": self.config.learning_rate * factor})
                        recorder.show(step, f"loss {values['loss']:.3f} · {meter.tokens_per_second:,.0f} tok/s")
                    if save:
                        self._save()
                if window.interrupted and not last:
                    raise Interrupted(f"interrupted after step {step} of {total}; continue with resume (--resume true)")
                if stop:
                    break
            self._keep_best()
            if interrupted():
                raise Interrupted(f"interrupted; the run was over, its model is in {self.output}")
            test = self._measure(self.task.test, "test", recorder) if self.task.test is not None else {}
        return RunResult(self.output, self.position.step, meter.tokens, meter.seconds, self.initial, self.best, test)

    # One step ---------------------------------------------------------------------------------------------------------

    def _agree(self, shares: list[Share], *, interrupted: bool) -> Window:
        """What all processes must know before the step, in one reduction. The batches are still on the host."""
        local = {"tokens": 0.0, "interrupted": float(interrupted)}
        for share in shares:
            local["tokens"] += share.weight * share.batch.total_tokens
            for name, count in self.model.target_counts(share.batch, **self.task.loss_options).items():
                local[f"targets.{name}"] = local.get(f"targets.{name}", 0.0) + share.weight * float(count)
        total = self._sum_over_processes(local)
        targets = {name.removeprefix("targets."): n for name, n in total.items() if name.startswith("targets.")}
        return Window(int(total["tokens"]), targets, total["interrupted"] > 0)

    def _step(self, shares: list[Share], targets: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """Update the weights from one window. Returns this process's sum of each loss term, and the gradient norm."""
        sums: dict[str, Tensor] = {}
        self.model.train()
        for i, share in enumerate(shares):
            batch = share.batch.to(self.accelerator.device)
            synchronise = i + 1 == len(shares)
            with contextlib.nullcontext() if synchronise else self._no_sync():
                with self._autocast():
                    terms = self.loss_module(batch)
                scales = {name: share.weight * self._weight(name) / max(targets[name], 1.0) for name in terms}
                loss = torch.stack([term.sum * scales[name] for name, term in terms.items()]).sum()
                # DDP and FSDP average over processes; the counts are global already, so the average is undone.
                (loss * self.accelerator.num_processes).backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.sum.detach() * share.weight
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or math.inf))
        if not math.isfinite(norm):
            raise FloatingPointError(self._not_finite(shares, sums))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sums, norm

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        return gradients_kept(self.model) if self.sharding is not None else self.accelerator.no_sync(self.loss_module)

    def _weight(self, term: str) -> float:
        return self.task.term_weights.get(term, 1.0)

    def _sum_over_processes(self, values: dict[str, float]) -> dict[str, float]:
        if self.accelerator.num_processes == 1:
            return values
        stacked = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(stacked).tolist(), strict=True))

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16)

    def _not_finite(self, shares: list[Share], sums: Mapping[str, Tensor]) -> str:
        """What to tell about a gradient that would have spoilt the weights, and how to go on; the batches are kept."""
        step = self.position.step + 1
        bad = [name for name, value in sums.items() if not math.isfinite(value)] or ["the gradient"]
        facts = {
            "not finite": bad,
            "sums": {name: str(float(value)) for name, value in sums.items()},  # text: JSON has no NaN
            "position": dataclasses.asdict(self.position),
        }
        kept = save_failed_step(self.output, step, self.accelerator.process_index, shares, facts)
        saved = list_checkpoints(self._checkpoints)
        resume = f"resume {saved[0]}" if saved else "start again"
        return (
            f"{', '.join(bad)} not finite in step {step}, the weights are unchanged: {resume} with a lower "
            f"learning_rate, a clip above 0 or precision fp32; the step's batches are in {kept}"
        )

    # Evaluation and saving --------------------------------------------------------------------------------------------

    def _evaluate(self, recorder: Recorder) -> bool:
        """Measure on the held-out data, and keep the model if it is the best so far; tells whether it is."""
        if self.task.validate is None:
            return False
        metrics = self._measure(self.task.validate, "validation", recorder)
        if self.position.step == 0:
            self.initial = metrics
            return False
        self.evaluations_since_best += 1
        improved = not self.best or self._better(metrics, self.best)
        if improved:
            self.best, self.evaluations_since_best = metrics, 0
            self._save_model()
        return improved

    def _measure(
        self, measure: Callable[[PretrainedModel], dict[str, float]], split: str, recorder: Recorder
    ) -> dict[str, float]:
        with self._autocast():
            metrics = measure(self.model)
        reshard(self.model)
        if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
            raise FloatingPointError(f"{split} {', '.join(bad)} not finite after step {self.position.step}")
        recorder.record(self.position.step, split, metrics)
        recorder.say(f"  step {self.position.step:>6}: {split} {format_metrics(metrics)}")
        return metrics

    def _better(self, metrics: dict[str, float], than: dict[str, float]) -> bool:
        sign = -1.0 if self.task.metric == "loss" else 1.0
        return sign * metrics[self.task.metric] > sign * than[self.task.metric]

    def _out_of_patience(self) -> bool:
        return self.task.early_stopping is not None and self.evaluations_since_best >= self.task.early_stopping

    def _start(self, recorder: Recorder) -> None:
        checkpoint = load_latest(self._checkpoints) if self.config.resume else None
        if self.accelerator.is_main_process:
            self.config.save(self.output / "training.json")
        if checkpoint is not None:
            self._restore(checkpoint)
            recorder.rewind(self.position.step)
            recorder.show(self.position.step, "resumed")
            recorder.say(f"  resumed after step {self.position.step}, from {checkpoint.directory}")
            return
        if self.config.resume:
            recorder.say(f"  nothing to resume in {self._checkpoints}: starting from step 0")
        recorder.rewind(-1)
        if self.accelerator.process_index:  # the weights were drawn alike everywhere, dropout must not be
            torch.manual_seed(self.config.seed + self.accelerator.process_index)
        self._evaluate(recorder)

    def _save(self) -> None:
        generators: dict[str, Tensor] = {}
        for states in gather_object([generator_tensors(self.accelerator.process_index)]):
            generators.update(states)
        state = {
            "position": dataclasses.asdict(self.position),
            "config": dataclasses.asdict(self.config),
            "run": self.identity,
            "initial": self.initial,
            "best": self.best,
            "evaluations_since_best": self.evaluations_since_best,
        }
        model = whole_model(self.model)
        moments = whole_tensors(optimizer_tensors(self.optimizer, self.model))
        self._on_main(
            lambda: save_checkpoint(
                self._checkpoints,
                self.position.step,
                save_model=functools.partial(self.task.save_model, model),
                tensors={**moments, **generators},
                state=state,
                keep=self.config.keep,
            )
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        saved, current = checkpoint.state["config"] | checkpoint.state["run"], dataclasses.asdict(self.config)
        current |= self.identity
        changed = sorted(k for k in current if k not in _FREE_TO_CHANGE and saved.get(k) != current[k])
        if changed:
            pairs = ", ".join(f"{name} was {saved.get(name)!r}, is {current[name]!r}" for name in changed)
            raise ValueError(f"cannot resume {checkpoint.directory} with other settings: {pairs}")
        self._load_weights(checkpoint.directory)
        restore_optimizer(self.optimizer, self.model, checkpoint.tensors)
        restore_generators(checkpoint.tensors, self.accelerator.process_index)
        self.position = Position(**checkpoint.state["position"])
        self.initial, self.best = checkpoint.state["initial"], checkpoint.state["best"]
        self.evaluations_since_best = checkpoint.state["evaluations_since_best"]

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a position in the data to mean the same."""
        digest = hashlib.sha256()
        for segment in self.task.segments:
            digest.update(segment.examples.epoch(0).lengths.tobytes())
        return {
            "training data (a hash)": digest.hexdigest()[:16],
            "processes": self.accelerator.num_processes,
            "total steps": self.stream.total_steps,
        }

    def _keep_best(self) -> None:
        """``output`` holds the best model already; where nothing was measured, the last one goes there."""
        if self.best:
            self._load_weights(self.output)
        else:
            self._save_model()

    def _save_model(self) -> None:
        model = whole_model(self.model)
        self._on_main(lambda: self.task.save_model(model, self.output))

    @torch.no_grad()
    def _load_weights(self, directory: Path) -> None:
        own, config = self.model.state_dict(), self.model.config
        saved = architecture(config.family, self.model.purpose).from_pretrained(directory).state_dict()
        for name, value in saved.items():
            own[name].copy_(part_like(value, own[name]))

    def _on_main(self, action: Callable[[], object]) -> None:
        if self.accelerator.is_main_process:
            action()
        self.accelerator.wait_for_everyone()

    @property
    def _checkpoints(self) -> Path:
        return self.output / "checkpoints"
