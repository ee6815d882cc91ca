"""``fastbert embed``: a file of texts in, a file of vectors out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastbert.cli import main
from fastbert.data.samples import minilm_directory
from fastbert.embedding import EmbedConfig


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("body\nA man is eating food.\nStocks fell.\nSomeone eats a meal.\n", encoding="utf-8")
    output = tmp_path / "vectors.npy"
    options = ["--model", str(minilm_directory()), "--input", str(texts), "--output", str(output)]
    assert main(["embed", *options, "--text_column", "body"]) == 0
    assert f"3 vectors of 384 numbers in {output}" in capsys.readouterr().out
    vectors = np.load(output)
    assert (vectors.shape, vectors.dtype) == ((3, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[2] > 0.5 > vectors[0] @ vectors[1]


def test_the_output_must_be_npy() -> None:
    with pytest.raises(ValueError, match=r"output is 'vectors.csv'; allowed: a file that ends in .npy"):
        EmbedConfig("model", "texts.csv", "vectors.csv")
