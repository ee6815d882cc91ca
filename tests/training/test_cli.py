"""The command line: the same dataclasses, YAML with overrides, one sentence and status 2 for bad input."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

import fastbert
from fastbert.cli import main

TINY = "steps: 2\nvocab_size: 400\nmax_length: 32\ntokens_per_batch: 256\nprecision: fp32\nlog_to: none\n"


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def pretrain(settings, corpus, output, *more) -> int:
    return main(
        [
            "pretrain",
            "--config",
            settings,
            "--model",
            "bert-tiny",
            "--corpus",
            str(corpus),
            "--output",
            str(output),
            *more,
        ]
    )


def test_pretrain_finetune_evaluate_predict_fill_mask(settings, corpus, reviews, tmp_path, capfd):
    assert pretrain(settings, corpus, tmp_path / "bert", "--steps", "3") == 0
    assert "3 steps" in capfd.readouterr().out  # the option overrides the file

    tuned = ["finetune", "--model", str(tmp_path / "bert"), "--output", str(tmp_path / "tuned"), "--steps", "2"]
    tuned += ["--train", str(reviews[0]), "--validation", str(reviews[1]), "--max_length", "32", "--log_to", "none"]
    assert main(tuned) == 0
    assert "held out: loss" in capfd.readouterr().out

    model = ["--model", str(tmp_path / "tuned"), "--max_length", "32"]
    assert main(["evaluate", *model, "--data", str(reviews[1])]) == 0
    assert "accuracy 0." in capfd.readouterr().out
    assert main(["predict", *model, "--input", str(reviews[1]), "--output", str(tmp_path / "out.jsonl")]) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 32
    assert main(["fill-mask", "--model", str(tmp_path / "bert"), "--text", "the cat [MASK] the river."]) == 0
    assert "mask 1: " in capfd.readouterr().out


def test_generate(settings, corpus, tmp_path, capfd):
    arguments = ["pretrain", "--config", settings, "--model", "gpt-tiny", "--corpus", str(corpus)]
    assert main([*arguments, "--output", str(tmp_path / "gpt")]) == 0
    capfd.readouterr()
    assert main(["generate", "--model", str(tmp_path / "gpt"), "--prompt", "the cat", "--max_new_tokens", "5"]) == 0
    assert capfd.readouterr().out.startswith("the cat")


def test_doctor(capfd):
    assert main(["doctor"]) == 0
    out = capfd.readouterr().out
    assert "instructions" in out
    assert "attention" in out


@pytest.mark.parametrize("command", ["pretrain", "finetune", "evaluate", "predict", "generate", "fill-mask", "demo"])
def test_help(command, capfd):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "--" in capfd.readouterr().out


def sentence(capfd) -> str:
    """The one line on standard error, without a traceback."""
    lines = capfd.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(lines)
    return lines[-1]


def test_a_corpus_of_several_files_as_a_shell_expands_it(settings, corpus, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text())
    options = ["--config", settings, "--model", "gpt-tiny", "--output", str(tmp_path / "run")]
    assert main(["pretrain", *options, "--corpus", str(corpus), str(other), "--steps", "1"]) == 0


def test_commands_for_the_other_family(settings, corpus, tmp_path, capfd):
    assert pretrain(settings, corpus, tmp_path / "bert") == 0
    capfd.readouterr()
    assert main(["generate", "--model", str(tmp_path / "bert"), "--prompt", "the"]) == 2
    assert "generate needs a GPT" in sentence(capfd)


def test_an_untrained_preset_is_not_fine_tuned(reviews, tmp_path, capfd):
    assert main(["finetune", "--model", "bert-base", "--output", str(tmp_path / "x"), "--train", str(reviews[0])]) == 2
    assert "untrained preset: pretrain it first" in sentence(capfd)


def test_version(capfd):
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.strip() == fastbert.__version__


def test_a_missing_corpus(settings, tmp_path, capfd):
    assert pretrain(settings, tmp_path / "nowhere.txt", tmp_path / "run") == 2
    assert "nowhere.txt" in sentence(capfd)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_an_empty_corpus(settings, tmp_path, capfd):
    (tmp_path / "empty.txt").write_text("\n\n")
    assert pretrain(settings, tmp_path / "empty.txt", tmp_path / "run") == 2
    assert "empty.txt" in sentence(capfd)


def test_a_line_that_is_not_utf8(settings, corpus, tmp_path, capfd):
    corpus.write_bytes(corpus.read_bytes() + b"caf\xe9 au lait\n")
    assert pretrain(settings, corpus, tmp_path / "run") == 2
    number = corpus.read_bytes().count(b"\n")
    assert f"line {number}" in (message := sentence(capfd))
    assert "UTF-8" in message
    assert "corpus.txt" in message


def test_a_sequence_longer_than_the_positions(settings, corpus, tmp_path, capfd):
    assert pretrain(settings, corpus, tmp_path / "run", "--max_length", "600") == 2
    assert "max_length is 600; allowed: at most 512" in sentence(capfd)


def test_an_unknown_option_and_a_bad_value(settings, corpus, tmp_path, capfd):
    for option, value in (("--warp", "9"), ("--precision", "fp8")):
        with pytest.raises(SystemExit) as stop:
            pretrain(settings, corpus, tmp_path / "run", option, value)
        assert stop.value.code == 2
        assert sentence(capfd).startswith("fastbert: error: ")
    assert pretrain(settings, corpus, tmp_path / "run", "--clip", "-1") == 2
    assert "clip is -1.0; allowed: 0 or more" in sentence(capfd)


def test_a_disk_that_fills_up_while_saving_leaves_no_half_written_model(settings, corpus, tmp_path):
    """A real failure of the operating system: files may not grow beyond 200 kB in the child process."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, {resource.RLIM_INFINITY}));"
        "from fastbert.cli import main; sys.exit(main())"
    )
    arguments = ["pretrain", "--config", settings, "--model", "bert-tiny", "--corpus", str(corpus)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, "--output", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "fastbert: error:" in done.stderr
    left = {path.name for path in (tmp_path / "run").rglob("*")}
    assert "model.safetensors" not in left
    assert not any("partial" in name or "saving" in name for name in left)
