"""The command line, ``fastbert COMMAND``: what there is, ``fastbert --help`` says.

Options are the fields of the same dataclasses that the Python calls take. Bad input ends with one sentence and exit
status 2, an interruption with 130; ``FASTBERT_DEBUG=1`` shows the traceback instead.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import fastbert

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from fastbert.embedding import EmbedConfig
    from fastbert.inference import EvaluateConfig, FillMaskConfig, GenerateConfig, PredictConfig
    from fastbert.training import RunResult


class Command(NamedTuple):
    """A subcommand: the dataclass whose fields are its options, and what runs with it."""

    config: type
    run: Callable[[Any], object]
    help: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if os.environ.get("FASTBERT_DEBUG") == "1":
        return _dispatch(arguments)
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt as stop:
        _complain(str(stop) or "interrupted")
        return 130
    except (ValueError, TypeError, OSError, ArithmeticError, ImportError) as error:
        _complain(f"error: {error}")
        return 2
    except RuntimeError as error:
        from fastbert.training.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        advised = "tokens_per_batch" in str(error)
        _complain(f"error: {error}" if advised else "error: out of memory; lower tokens_per_batch or max_length")
        return 2


def _complain(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # of many processes that fail alike, one speaks
        print(f"fastbert: {message}", file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    if arguments == ["doctor"]:  # needs no more than the core dependencies, so it does not go through the parser
        _doctor(None)
        return 0
    if arguments == ["--version"]:
        print(fastbert.__version__)
        return 0
    parser, commands = _build_parser()
    parsed = parser.parse_args(_listed(arguments, "--corpus"))
    command = commands[parsed.command]
    options = parser.instantiate(parsed)[parsed.command].as_dict()
    options.pop("config")
    command.run(command.config(**options))
    return 0


def _listed(arguments: list[str], option: str) -> list[str]:
    """``--corpus a.txt b.txt``, as a shell expands ``*.txt``, in the parser's spelling of a list."""
    if option not in arguments:
        return arguments
    start = arguments.index(option) + 1
    end = next((i for i in range(start, len(arguments)) if arguments[i].startswith("--")), len(arguments))
    values = arguments[start:end]
    return [*arguments[:start], json.dumps(values) if len(values) > 1 else "".join(values), *arguments[end:]]


def _build_parser() -> tuple[ArgumentParser, dict[str, Command]]:
    try:
        import jsonargparse
    except ImportError as error:
        raise ImportError("this command needs the training extra: pip install 'fastbert-kernels[train]'") from error

    class ArgumentParser(jsonargparse.ArgumentParser):
        """Says what is wrong in a line; the usage of thirty options is for --help."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            reason = " ".join(message.split())
            self.exit(2, f"fastbert: error: {reason} (see {self.prog.replace(' [options]', '')} --help)\n")

    commands = _commands()
    parser = ArgumentParser(prog="fastbert", description="Pretrain, fine-tune and use BERT and GPT models.")
    subcommands = parser.add_subcommands(dest="command", required=True)
    for name, command in commands.items():
        subparser = ArgumentParser(description=command.help)
        subparser.add_argument("--config", action="config", help="YAML file with options; later options override it.")
        subparser.add_class_arguments(command.config)
        subcommands.add_subcommand(name, subparser, help=command.help)
    return parser, commands


def _commands() -> dict[str, Command]:
    from fastbert import inference
    from fastbert.demo import DemoConfig, run_demo
    from fastbert.embedding import EmbedConfig
    from fastbert.training import FinetuneConfig, PretrainConfig, finetune, pretrain

    return {
        "pretrain": Command(PretrainConfig, lambda c: _report(pretrain(c)), "Pretrain BERT or GPT on text files."),
        "finetune": Command(FinetuneConfig, lambda c: _report(finetune(c)), "Fine-tune a model on a task."),
        "evaluate": Command(inference.EvaluateConfig, _evaluate, "Measure a fine-tuned model on labelled data."),
        "predict": Command(inference.PredictConfig, _predict, "Use a fine-tuned model on new data."),
        "embed": Command(EmbedConfig, _embed, "Give texts vectors that are near where they mean the same."),
        "generate": Command(inference.GenerateConfig, _generate, "Continue a prompt with a GPT."),
        "fill-mask": Command(inference.FillMaskConfig, _fill_mask, "Fill the masks of a text with a BERT."),
        "doctor": Command(_Nothing, _doctor, "Say what fastbert runs on, which backend would run, and why."),
        "demo": Command(DemoConfig, run_demo, "Pretrain, fine-tune and use models on real text, from nothing."),
    }


@dataclass
class _Nothing:
    """A command without options."""


def _doctor(_: object) -> None:
    from fastbert.environment import describe

    print(describe().as_text())


def _report(result: RunResult) -> None:
    print(f"{result.steps} steps, {result.tokens_per_second:,.0f} tokens/s; the model is in {result.output}")
    for name, metrics in (("held out", result.final), ("test", result.test)):
        if metrics:
            print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))


def _evaluate(config: EvaluateConfig) -> None:
    from fastbert.inference import evaluate

    print("\n".join(f"{name} {value:.4f}" for name, value in evaluate(config).items()))


def _predict(config: PredictConfig) -> None:
    from fastbert.inference import predict

    print(f"{len(predict(config))} predictions in {config.output}")


def _embed(config: EmbedConfig) -> None:
    from fastbert.embedding import embed

    texts, width = embed(config).shape
    print(f"{texts} vectors of {width} numbers in {config.output}")


def _generate(config: GenerateConfig) -> None:
    from fastbert.inference import generate

    if not config.streams:
        print("\n\n".join(config.prompt + text for text in generate(config)))
        return
    begun = False

    def write(piece: str) -> None:
        nonlocal begun
        print(piece if begun else config.prompt + piece, end="", flush=True)
        begun = True

    try:
        generate(config, write)
    finally:
        if begun:  # also where it is interrupted, the line ends
            print()


def _fill_mask(config: FillMaskConfig) -> None:
    from fastbert.inference import fill_mask

    for place, candidates in enumerate(fill_mask(config), start=1):
        print(f"mask {place}: " + ", ".join(f"{c.token} ({c.probability:.3f})" for c in candidates))
