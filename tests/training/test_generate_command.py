"""``fastbert generate`` with a random model: what it prints is what the model says, as it says it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastbert.cli import main
from fastbert.data import Tokenizer
from fastbert.inference import GenerateConfig, generate
from fastbert.models import GPTForPreTraining, preset

PROMPT = "the cat"
NEW = 12


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Tokenizer]:
    """The directory of a model, the model and its tokenizer."""
    directory = tmp_path_factory.mktemp("gpt")
    tokenizer = Tokenizer.train_byte_bpe(["the cat sees the river. " * 20, "가나다라 café"], vocab_size=300)
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = GPTForPreTraining(
        preset("gpt2").replace(
            vocab_size=tokenizer.vocab_size, max_position_embeddings=64, initializer_range=0.3, **sizes
        )
    ).eval()
    with torch.no_grad():  # a score of 0, never the best, for what is no letter or space: the text can be read
        for i in range(tokenizer.vocab_size):
            if not tokenizer.decode([i]).replace(" ", "a").isalpha():
                model.transformer.embeddings.tokens.weight[i] = 0
    model.save_pretrained(directory)
    tokenizer.save(directory)
    return str(directory), model, tokenizer


def said(saved: tuple[str, Any, Tokenizer], **options: Any) -> list[str]:
    """The continuations' texts by way of the model's ids."""
    _, model, tokenizer = saved
    ids = tokenizer.encode(PROMPT)
    rows = model.generate(
        torch.tensor([ids]), **{"max_new_tokens": NEW, "eos_token_id": tokenizer.eos_id, "pad_token_id": 0, **options}
    )
    texts = []
    for row in rows[:, len(ids) :].tolist():
        end = row.index(tokenizer.eos_id) if tokenizer.eos_id in row else len(row)
        texts.append(tokenizer.decode(ids + row[:end])[len(PROMPT) :])
    return texts


def run(saved: tuple[str, Any, Tokenizer], *more: str) -> int:
    return main(["generate", "--model", saved[0], "--prompt", PROMPT, "--max_new_tokens", str(NEW), *more])


def test_greedy_text_is_printed(saved: tuple[str, Any, Tokenizer], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(saved) == 0
    assert capfd.readouterr().out == PROMPT + said(saved)[0] + "\n"


def test_all_options_reach_the_model(saved: tuple[str, Any, Tokenizer], capfd: pytest.CaptureFixture[str]) -> None:
    sampling = ["--do_sample", "true", "--temperature", "1.4", "--top_k", "40", "--top_p", "0.9"]
    sampling += ["--repetition_penalty", "1.2", "--seed", "5", "--num_return_sequences", "2"]
    assert run(saved, *sampling) == 0
    options = {"do_sample": True, "temperature": 1.4, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2}
    two = said(saved, **options, seed=5, num_return_sequences=2)
    assert capfd.readouterr().out == "\n\n".join(PROMPT + text for text in two) + "\n"
    assert two[0] != two[1]

    beams = ["--num_beams", "3", "--length_penalty", "2.0", "--early_stopping", "never", "--eos_token_id", "[5, 9]"]
    assert run(saved, *beams) == 0
    options = {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never", "eos_token_id": [5, 9]}
    ids = saved[1].generate(torch.tensor([saved[2].encode(PROMPT)]), max_new_tokens=NEW, pad_token_id=0, **options)
    assert capfd.readouterr().out == saved[2].decode(ids[0].tolist()) + "\n"


def test_the_text_comes_in_pieces_that_are_final(saved: tuple[str, Any, Tokenizer]) -> None:
    pieces: list[str] = []
    config = GenerateConfig(model=saved[0], prompt=PROMPT, max_new_tokens=NEW)
    (text,) = generate(config, pieces.append)
    assert [text] == said(saved)
    assert "".join(pieces) == text
    assert sum(piece != "" for piece in pieces) > 3


def test_a_stop_text_ends_it(saved: tuple[str, Any, Tokenizer], capfd: pytest.CaptureFixture[str]) -> None:
    text = said(saved)[0]
    stop = text[4:6]
    assert text.isprintable()
    assert run(saved, "--stop", stop) == 0
    assert capfd.readouterr().out == PROMPT + text[: text.index(stop)] + "\n"
    assert run(saved, "--stop", f'["{chr(0x1F642)}", "{stop}"]') == 0
    assert capfd.readouterr().out == PROMPT + text[: text.index(stop)] + "\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "0.5"], "temperature=0.5 has no effect without do_sample=True"),
        (["--max_new_tokens", "63"], "max_new_tokens 63 exceed the model's 64 positions"),
        (["--stop", ""], "stop must hold no empty text"),
        (["--early_stopping", "soon", "--num_beams", "2"], "early_stopping"),
    ],
)
def test_bad_options_are_one_sentence_and_print_no_prompt(
    saved: tuple[str, Any, Tokenizer], options: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = run(saved, *options)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    captured = capfd.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert captured.err.splitlines()[-1].startswith("fastbert: error: ")
    assert captured.out == ""


def test_an_interrupted_text_ends_its_line(
    saved: tuple[str, Any, Tokenizer], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: GenerateConfig, write: Any) -> list[str]:
        write(" sees")
        raise KeyboardInterrupt

    monkeypatch.setattr("fastbert.inference.generate", interrupted)
    assert run(saved) == 130
    captured = capfd.readouterr()
    assert captured.out == PROMPT + " sees\n"
    assert captured.err == "fastbert: interrupted\n"
