"""Damaged models, tokenizers, caches and checkpoints: one clear error that names the file, never a crash.

Bits are flipped, bytes inserted, removed, repeated and zeroed, ends cut off, at random places from fixed seeds. A file
may come out readable (a weight has another value, a word another letter); then it must load. What must not happen is
an error that does not say which file it was, one of another kind than callers expect, or the end of the process.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastbert.data import Tokenizer
from fastbert.data.token_cache import cached_corpus
from fastbert.models import BertConfig, BertForPreTraining, GPTConfig, GPTForPreTraining, load_pretrained
from fastbert.training.checkpoint import load_latest, save_checkpoint

TEXTS = ["the cat sat on the mat", "a dog ate the bread, twice", "Größe und café und 한국어"] * 20
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
EXPECTED = (ValueError, OSError)
LOADERS: dict[str, Callable[[Path], object]] = {
    "config.json": lambda directory: load_pretrained(directory, "pretraining"),
    "model.safetensors": lambda directory: load_pretrained(directory, "pretraining"),
    "tokenizer.json": Tokenizer.load,
    "tokenizer_config.json": Tokenizer.load,
    "special_tokens_map.json": Tokenizer.load,
    "vocab.txt": Tokenizer.load,
    "vocab.json": Tokenizer.load,
    "merges.txt": Tokenizer.load,
}


def damaged(content: bytes, draw: random.Random) -> bytes:
    """One kind of damage, at one place or a few."""
    changed = bytearray(content)
    kind = draw.choice(("flip", "flip", "cut", "insert", "remove", "repeat", "zero", "swap", "empty"))
    start = draw.randrange(len(changed)) if changed else 0
    length = min(draw.choice((1, 2, 16, 4096)), len(changed) - start)
    if kind == "flip":
        for _ in range(draw.choice((1, 1, 2, 8))):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del changed[start:]
    elif kind == "insert":
        changed[start:start] = draw.randbytes(length)
    elif kind == "remove":
        del changed[start : start + length]
    elif kind == "repeat":
        changed[start:start] = changed[start : start + length]
    elif kind == "zero":
        changed[start : start + length] = bytes(length)
    elif kind == "swap":
        other = draw.randrange(len(changed))
        changed[start], changed[other] = changed[other], changed[start]
    else:
        changed.clear()
    return bytes(changed)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A BERT and a GPT with their tokenizers, as training leaves them."""
    torch.manual_seed(0)
    bert, gpt = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("gpt")
    words = Tokenizer.train_wordpiece(TEXTS, 300)
    words.save(bert)
    BertForPreTraining(BertConfig(vocab_size=words.vocab_size, **SIZES)).save_pretrained(bert)
    pieces = Tokenizer.train_byte_bpe(TEXTS, 300)
    pieces.save(gpt)
    GPTForPreTraining(GPTConfig(vocab_size=pieces.vocab_size, **SIZES)).save_pretrained(gpt)
    return {"bert": bert, "gpt": gpt}


def said(load: Callable[[], object], place: str) -> str | None:
    """The error's text, if there is one of those that callers expect."""
    try:
        load()
    except EXPECTED as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{place}: {type(error).__name__}: {error}") from error
    return None


def check_file(source: Path, name: str, seeds: Iterator[int] | range, folder: Path) -> None:
    directory = folder / "damaged"
    content = (source / name).read_bytes()
    for seed in seeds:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(source, directory)
        (directory / name).write_bytes(damaged(content, random.Random(f"{name} {seed}")))
        error = said(lambda: LOADERS[name](directory), f"{name}, seed {seed}")
        assert error is None or str(directory) in error or name in error, f"seed {seed}: {error}"


@pytest.mark.parametrize("family", ["bert", "gpt"])
def test_models_and_tokenizers(directories: dict[str, Path], tmp_path: Path, family: str) -> None:
    names = [name for name in LOADERS if (directories[family] / name).is_file()]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    for name in names:
        check_file(directories[family], name, range(60), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "gpt"])
@pytest.mark.parametrize("name", LOADERS)
def test_many(directories: dict[str, Path], tmp_path: Path, family: str, name: str) -> None:
    if not (directories[family] / name).is_file():
        pytest.skip(f"{family} has no {name}")
    check_file(directories[family], name, range(1000, 2000), tmp_path)


def test_token_caches(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(TEXTS), encoding="utf-8")
    tokenizer = Tokenizer.train_wordpiece(TEXTS, 300)
    cached_corpus([corpus], tokenizer, tmp_path / "cache")
    (directory,) = {path for path in (tmp_path / "cache").iterdir() if path.name != "parts"}
    whole = {path.name: path.read_bytes() for path in directory.iterdir()}
    for name, content in whole.items():
        for seed in range(20):
            (directory / name).write_bytes(damaged(content, random.Random(f"{name} {seed}")))
            error = said(lambda: cached_corpus([corpus], tokenizer, tmp_path / "cache"), f"{name}, seed {seed}")
            assert error is None or str(directory) in error, f"{name}, seed {seed}: {error}"
        (directory / name).write_bytes(content)


def test_damaged_parts_of_a_token_cache_are_made_again(tmp_path: Path) -> None:
    corpus, cache = tmp_path / "corpus.txt", tmp_path / "cache"
    corpus.write_text("\n\n".join(TEXTS), encoding="utf-8")
    tokenizer = Tokenizer.train_wordpiece(TEXTS, 300)

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_corpus([corpus], tokenizer, cache, progress=interrupt)
    (part,) = (cache / "parts").glob("*.npz")
    content = part.read_bytes()
    expected = cached_corpus([corpus], tokenizer, tmp_path / "other").ids.tobytes()
    for seed in range(200):
        part.write_bytes(damaged(content, random.Random(f"part {seed}")))
        assert cached_corpus([corpus], tokenizer, cache).ids.tobytes() == expected, f"seed {seed}"
        assert not part.exists()
        (made,) = {path for path in cache.iterdir() if path.name != "parts"}
        shutil.rmtree(made)


def test_checkpoints_fall_back_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def save(root: Path, step: int) -> Path:
        return save_checkpoint(
            root,
            step,
            save_model=lambda directory: (directory / "model.safetensors").write_bytes(b"weights" * step),
            tensors={"moment": torch.full((9,), float(step))},
            state={"step": step},
            keep=2,
        )

    for seed in range(60):
        root, draw = tmp_path / str(seed), random.Random(seed)
        save(root, 1)
        file = draw.choice(sorted(save(root, 2).iterdir()))
        content = file.read_bytes()
        file.write_bytes(damaged(content, draw))
        if file.read_bytes() == content:
            continue
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            loaded = load_latest(root)
        assert loaded is not None
        if loaded.state != {"step": 2}:
            assert loaded.state == {"step": 1}
            assert "step-00000002 is damaged" in caplog.text
        else:  # white space, which means nothing
            assert json.loads(file.read_text()) == json.loads(content)
