"""A run that is killed, at any moment, goes on to the same metrics and the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastbert.models import load_pretrained
from fastbert.training.recorder import read_metrics

# Dropout is on, and there is a checkpoint every other step, so that a kill is as likely inside saving as between.
PROGRAM = """
import json, sys
from fastbert import PretrainConfig, pretrain
print("ready", flush=True)
pretrain(PretrainConfig(**json.loads(sys.argv[1])))
"""
STEPS = 60


def start(corpus: Path, output: Path, *, resume: bool) -> subprocess.Popen[str]:
    settings = {
        "model": "bert-tiny",
        "output": str(output),
        "corpus": [str(corpus)],
        "steps": STEPS,
        "vocab_size": 400,
        "max_length": 32,
        "tokens_per_batch": 256,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "log_to": "none",
        "save_every": 2,
        "eval_every": 20,
        "resume": resume,
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(settings)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]


def kill_when(process: subprocess.Popen[str], moment: Callable[[], bool]) -> bool:
    """Kill as soon as the moment has come; whether the process was still there."""
    assert process.stdout is not None
    process.stdout.readline()  # ready: what comes now is not the loading of libraries
    while process.poll() is None:
        if moment():
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.0005)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def while_saving(output: Path, later_than: int) -> Callable[[], bool]:
    """A checkpoint is being written."""
    return lambda: any(int(path.name[6:14]) > later_than for path in output.glob("checkpoints/.step-*.partial"))


def newest(output: Path) -> int:
    return max((int(path.name[5:]) for path in output.glob("checkpoints/step-*")), default=0)


def check(corpus: Path, folder: Path, seed: int, kills: int) -> None:
    """Kill until it was done so often, every other time inside saving; what is left of the run then ends it."""
    draw = random.Random(seed)
    whole, killed = folder / "whole", folder / "killed"
    begin = time.monotonic()
    finish(start(corpus, whole, resume=False))
    duration = time.monotonic() - begin
    done = 0
    while done < kills:
        process = start(corpus, killed, resume=True)
        if done % 2:
            moment = while_saving(killed, newest(killed) + draw.randrange(STEPS // (2 * kills)))
        else:
            moment = after(draw.uniform(0, duration / kills))
        if not kill_when(process, moment):
            break  # it came to its end before
        done += 1
    finish(start(corpus, killed, resume=True))

    assert done >= kills // 2, "the run was over too early to be killed"
    assert read_metrics(killed) == read_metrics(whole)
    a, b = (load_pretrained(output, "pretraining").state_dict() for output in (whole, killed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not list(killed.glob("checkpoints/damaged-*"))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_and_killed_again(corpus: Path, tmp_path: Path) -> None:
    check(corpus, tmp_path, seed=0, kills=4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("seed", range(1, 6))
def test_twenty_kills_more(corpus: Path, tmp_path: Path, seed: int) -> None:
    check(corpus, tmp_path, seed=seed, kills=4)
