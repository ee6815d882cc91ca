"""The main job from nothing to results, on real text: what ``fastbert demo`` runs.

A real pretrained BERT is fine-tuned on real reviews, to say what the names in Python's own code are, and to answer
questions about its functions; a small BERT and a small GPT are pretrained on the documentation that every CPython
carries and fine-tuned on the same reviews. Everything goes through the public calls.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fastbert.data import read_column_file, read_squad, samples, write_documents
from fastbert.environment import describe
from fastbert.files import replaced
from fastbert.inference import FillMaskConfig, GenerateConfig, PredictConfig, fill_mask, generate, predict
from fastbert.training import FinetuneConfig, PretrainConfig, RunResult, finetune, pretrain
from fastbert.training.plot import plot_losses

_MASKED = "Return a new [MASK] containing all items from the iterable."
_PROMPT = "Return the number of"
TAGGED_LINES, LONGEST_SHOWN = 1600, 15  # lines of code, and the tokens of one that fits the screen
CONTEXTS = 240


@dataclass
class DemoConfig:
    """Fine-tune a pretrained BERT for three tasks, pretrain and fine-tune a small BERT and a small GPT, on real text.

    Attributes:
        output: directory of the runs, the picture of the loss curves and summary.json. An earlier demo there is
            replaced; a directory with anything else in it is refused.
        seed: of every run.
        epochs: passes over the reviews in each fine-tuning.
        pretrain_steps: optimizer steps of each pretraining.
        compared_steps: optimizer steps of each run that compares the library's attention with torch's.
        bert: preset of the small BERT.
        gpt: preset of the small GPT.
        backend: attention backend; None lets the library choose.
    """

    output: str = "runs/demo"
    seed: int = 0
    epochs: float = 1.0
    pretrain_steps: int = 500
    compared_steps: int = 8
    bert: str = "bert-tiny"
    gpt: str = "gpt2-tiny"
    backend: str | None = None


@dataclass(frozen=True)
class Reviews:
    """Files of labelled reviews, and the share of the more frequent label among the held-out ones."""

    train: Path
    held_out: Path
    majority: float


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Run the demo, print what happens, and return (and save) the summary."""
    console = Console(highlight=False)
    output = Path(config.output)
    _clear(output)
    environment = describe()
    console.rule("environment")
    console.print(environment.as_text())

    console.rule("data")
    with console.status("fetching pretrained weights and reviews"):
        pretrained_minilm = samples.minilm_directory()
        reviews = _write_reviews(output / "data")
    console.print(f"reviews: {reviews.train} and {reviews.held_out} (majority rate {reviews.majority:.3f})")
    corpus = output / "data" / "documentation.txt"
    with console.status("collecting the documentation of this Python"):
        documents = samples.python_documentation()
        write_documents(corpus, documents)
    console.print(f"documentation: {len(documents):,} documents, {corpus.stat().st_size / 1e6:.1f} MB in {corpus}")

    console.rule("fine-tune MiniLM on the reviews")
    minilm = finetune(_finetuning(config, str(pretrained_minilm), "minilm", reviews, learning_rate=8e-5))
    summary: dict[str, Any] = {
        "minilm": {
            "accuracy": minilm.final["accuracy"],
            "majority": reviews.majority,
            "train_seconds": minilm.train_seconds,
            "tokens_per_second": minilm.tokens_per_second,
        }
    }
    console.rule("the same training steps with torch's attention")
    summary["against_sdpa"] = _compare_with_sdpa(config, str(pretrained_minilm), reviews)
    for family, model in (("bert", config.bert), ("gpt", config.gpt)):
        console.rule(f"pretrain and fine-tune {model}")
        pretrained = pretrain(_pretraining(config, model, family, corpus))
        # These learn the task from little pretraining: a higher rate than a fully pretrained model would take.
        tuned = finetune(_finetuning(config, str(pretrained.output), f"{family}-reviews", reviews, learning_rate=5e-4))
        summary[family] = _family_summary(pretrained, tuned, reviews)

    console.rule("tag code and answer questions with MiniLM")
    summary["tagging"] = _tag_code(console, config, str(pretrained_minilm))
    summary["question_answering"] = _answer_questions(console, config, str(pretrained_minilm))

    console.rule("use them")
    summary["fill_mask"] = _show_fill_mask(console, output / "bert")
    summary["generation"] = _show_generation(console, output / "gpt")

    summary["environment"] = environment.as_dict()
    _leave(output, summary)
    _show_summary(console, summary, output)
    return summary


def _pretraining(config: DemoConfig, model: str, name: str, corpus: Path) -> PretrainConfig:
    """The same fields for BERT and GPT."""
    return PretrainConfig(
        model=model,
        output=str(Path(config.output) / name),
        corpus=[str(corpus)],
        vocab_size=4096,
        max_length=128,
        tokens_per_batch=1024,
        steps=config.pretrain_steps,
        learning_rate=1e-3,
        dropout=0.0,  # a model that sees its corpus about once has nothing to overfit
        seed=config.seed,
        backend=config.backend,
    )


def _finetuning(config: DemoConfig, model: str, name: str, reviews: Reviews, *, learning_rate: float) -> FinetuneConfig:
    return FinetuneConfig(
        model=model,
        output=str(Path(config.output) / name),
        train=str(reviews.train),
        validation=str(reviews.held_out),
        epochs=config.epochs,
        tokens_per_batch=1024,
        learning_rate=learning_rate,
        dropout=0.1,
        save_every=1000,
        seed=config.seed,
        backend=config.backend,
    )


def _compare_with_sdpa(config: DemoConfig, model: str, reviews: Reviews) -> dict[str, float]:
    """Tokens a second of the first steps of the fine-tuning, with the library's attention and with torch's SDPA.

    Without dropout, because SDPA cannot draw the masks all backends share. The two take turns, so that whatever else
    the machine is doing meets both.
    """
    steps = replace(
        _finetuning(config, model, "compared", reviews, learning_rate=8e-5),
        steps=config.compared_steps,
        epochs=None,
        validation=None,
        dropout=0.0,
        log_to="none",
    )
    tokens, seconds = {"ours": 0, "sdpa": 0}, {"ours": 0.0, "sdpa": 0.0}
    warm_up = ("", config.backend)
    for name, backend in (warm_up, *(("ours", config.backend), ("sdpa", "sdpa")) * 2):
        result = finetune(replace(steps, backend=backend))
        shutil.rmtree(result.output)
        if name:
            tokens[name] += result.tokens
            seconds[name] += result.train_seconds
    rates = {name: tokens[name] / seconds[name] for name in tokens}
    return {
        "tokens_per_second": rates["ours"],
        "sdpa_tokens_per_second": rates["sdpa"],
        "speedup": rates["ours"] / rates["sdpa"],
    }


def _tag_code(console: Console, config: DemoConfig, model: str) -> dict[str, float]:
    """Fine-tune on lines of the standard library, and show a held-out one with its tags."""
    data = Path(config.output) / "data"
    train, held_out = samples.write_tagged_code(data, train=TAGGED_LINES, held_out=TAGGED_LINES // 8)
    result, predicted = _learn(config, model, "tagging", train, held_out)
    sentences = read_column_file(predicted)
    tags = [row[1] for sentence in sentences for row in sentence.rows]
    majority = max(map(tags.count, set(tags))) / len(tags)
    shown = max((s for s in sentences if len(s.words) <= LONGEST_SHOWN), key=lambda s: len({row[1] for row in s.rows}))
    table = Table("a held-out line of the standard library", escape(" ".join(shown.words)))
    for word, *_, tag in shown.rows:
        if tag != "operator":
            table.add_row(Text(word), tag)
    console.print(table)
    return {"accuracy": result.final["accuracy"], "majority": majority, "train_seconds": result.train_seconds}


def _answer_questions(console: Console, config: DemoConfig, model: str) -> dict[str, float]:
    """Fine-tune on questions about functions of the standard library, and show held-out ones with their answers."""
    data = Path(config.output) / "data"
    train, held_out = samples.write_questions(data, train=CONTEXTS, held_out=CONTEXTS // 4)
    result, answers = _learn(config, model, "question_answering", train, held_out)
    given = json.loads(answers.read_text(encoding="utf-8"))
    questions = read_squad(held_out)
    with_arguments = [question for question in questions if question.answers and "arguments" in question.question]
    context = with_arguments[0].context
    table = Table("question", "answer", title=Text(context))
    for question in (q for q in questions if q.context == context):
        table.add_row(question.question, Text(given[question.id] or "(none)"))
    console.print(table)
    return {name: result.final[name] for name in ("exact", "f1")} | {"train_seconds": result.train_seconds}


def _learn(config: DemoConfig, model: str, task: str, train: Path, held_out: Path) -> tuple[RunResult, Path]:
    """A pass over a task, and the file of what it then predicts for the held-out part."""
    result = finetune(
        FinetuneConfig(
            model=model,
            output=str(Path(config.output) / task),
            task=task,
            train=train,
            validation=held_out,
            epochs=config.epochs,
            tokens_per_batch=1024,
            learning_rate=3e-4,  # MiniLM has met nothing like it: more than for the sentiment of sentences
            dropout=0.0,
            save_every=1000,
            seed=config.seed,
            backend=config.backend,
        )
    )
    predicted = result.output / f"predicted{held_out.suffix}"
    predict(PredictConfig(model=str(result.output), input=str(held_out), output=str(predicted)))
    return result, predicted


def _family_summary(pretrained: RunResult, tuned: RunResult, reviews: Reviews) -> dict[str, float]:
    return {
        "loss_before": pretrained.initial["loss"],
        "loss_after": pretrained.final["loss"],
        "accuracy": tuned.final["accuracy"],
        "majority": reviews.majority,
        "tokens_per_second": pretrained.tokens_per_second,
    }


def _write_reviews(directory: Path) -> Reviews:
    train, held_out = samples.write_movie_reviews(directory)
    labels = [review.label for review in samples.split_movie_reviews(samples.movie_reviews())[1]]
    positive = sum(labels) / len(labels)
    return Reviews(train, held_out, max(positive, 1.0 - positive))


def _show_fill_mask(console: Console, model: Path) -> dict[str, Any]:
    candidates = fill_mask(FillMaskConfig(model=str(model), text=_MASKED))[0]
    words = ", ".join(f"{candidate.token} ({candidate.probability:.2f})" for candidate in candidates)
    console.print(f"BERT fills  {_MASKED!r}:\n  {words}", markup=False)
    return {"text": _MASKED, "candidates": [candidate.token for candidate in candidates]}


def _show_generation(console: Console, model: Path) -> dict[str, str]:
    (text,) = generate(GenerateConfig(model=str(model), prompt=_PROMPT, max_new_tokens=24))
    console.print(f"GPT continues  {_PROMPT!r}:\n  {text}", markup=False)
    return {"prompt": _PROMPT, "continuation": text}


def _leave(output: Path, summary: dict[str, Any]) -> None:
    runs = ("minilm", "bert", "bert-reviews", "gpt", "gpt-reviews", "tagging", "question_answering")
    plot_losses({name: output / name for name in runs}, output / "loss.png")
    with replaced(output / "summary.json") as aside:
        aside.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _show_summary(console: Console, summary: dict[str, Any], output: Path) -> None:
    console.rule("summary")
    table = Table()
    for heading in ("model", "held-out loss before", "after", "review accuracy", "majority", "tokens/s"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name in ("minilm", "bert", "gpt"):
        row = summary[name]
        losses = [f"{row[key]:.3f}" if key in row else "" for key in ("loss_before", "loss_after")]
        rates = [f"{row['accuracy']:.3f}", f"{row['majority']:.3f}", f"{row['tokens_per_second']:,.0f}"]
        table.add_row(name, *losses, *rates)
    console.print(table)
    tagging, answers = summary["tagging"], summary["question_answering"]
    console.print(
        f"names in code: {tagging['accuracy']:.3f} right (most frequent tag: {tagging['majority']:.3f}); questions: "
        f"{answers['exact']:.3f} answered exactly, F1 {answers['f1']:.3f}"
    )
    against = summary["against_sdpa"]
    console.print(
        f"training steps without dropout: {against['tokens_per_second']:,.0f} tokens/s, with torch's SDPA "
        f"{against['sdpa_tokens_per_second']:,.0f}: {against['speedup']:.2f} times as fast"
    )
    console.print(f"everything is in {output}: summary.json, loss.png, and a directory for each run")


def _clear(output: Path) -> None:
    """Make an empty directory, or empty one that an earlier demo made."""
    marker = output / ".fastbert-demo"
    if output.exists() and any(output.iterdir()) and not marker.exists():
        raise ValueError(f"output {output} holds something else than a demo: choose another, or an empty one")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    marker.touch()
