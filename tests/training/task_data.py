"""Small data sets in the tasks' own file formats, drawn from a seed, and small models that know their words."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from fastbert.data import Tokenizer
from fastbert.models import architecture, preset
from fastbert.training.model_setup import save_with_tokenizer

FIRST_NAMES = ("Anna", "Boris", "Chen", "Dalia", "Emil", "Fatima")
LAST_NAMES = ("Adler", "Brown", "Cruz", "Dumas", "Eriksen", "Fischer")
PLACES = (("Oslo",), ("Lima",), ("New", "Delhi"), ("San", "Marino"), ("Cape", "Town"), ("Seoul",))
VERBS = ("met", "saw", "called", "followed", "greeted")
TOPICS = {  # what happens there, in a few words
    "kitchen": ("stirs the soup", "peels an onion", "bakes the bread"),
    "harbour": ("ties the boat", "mends a net", "watches the tide"),
    "school": ("reads the lesson", "rings the bell", "wipes the board"),
    "garden": ("waters the roses", "rakes the leaves", "plants a tree"),
}
PEOPLE = ("she", "he", "the boy", "the girl", "my friend")


def small_model(family: str, texts: Iterable[str], directory: Path, *, seed: int = 0) -> Path:
    """A directory with an untrained model of two layers, and a tokenizer that knows the texts."""
    torch.manual_seed(seed)
    causal = family == "gpt"
    train = Tokenizer.train_byte_bpe if causal else Tokenizer.train_wordpiece
    tokenizer = train(list(texts) * 3, 500)
    config = preset("gpt2-tiny" if causal else "bert-tiny", vocab_size=tokenizer.vocab_size)
    save_with_tokenizer(tokenizer, architecture(config.family, "pretraining")(config), directory)
    return directory


def write_csv(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


# Tagging --------------------------------------------------------------------------------------------------------------


def tagged_sentence(draw: random.Random) -> list[tuple[str, str, str]]:
    """(word, part of speech, IOB2 tag): a person does something to a person, sometimes in a place."""

    def person() -> list[tuple[str, str, str]]:
        names = [draw.choice(FIRST_NAMES), draw.choice(LAST_NAMES)][: draw.choice((1, 2))]
        return [(name, "NNP", ("I-PER", "B-PER")[i == 0]) for i, name in enumerate(names)]

    rows = [*person(), (draw.choice(VERBS), "VBD", "O"), *person()]
    if draw.random() < 0.7:
        place = draw.choice(PLACES)
        rows += [("in", "IN", "O"), *((name, "NNP", ("I-LOC", "B-LOC")[i == 0]) for i, name in enumerate(place))]
    return [*rows, (".", ".", "O")]


def write_conll(path: Path, count: int, seed: int) -> Path:
    """A CoNLL-2003 file: word, part of speech, chunk, entity."""
    draw = random.Random(seed)
    lines = []
    for i in range(count):
        if i % 10 == 0:
            lines += ["-DOCSTART- -X- -X- O", ""]
        lines += [f"{word} {pos} I-NP {tag}" for word, pos, tag in tagged_sentence(draw)] + [""]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def conll_texts() -> list[str]:
    return [" ".join((*FIRST_NAMES, *LAST_NAMES, *(" ".join(place) for place in PLACES), *VERBS, "in", "."))]


# Numbers and pairs ----------------------------------------------------------------------------------------------------


def scored_texts(count: int, seed: int) -> list[dict[str, object]]:
    """Reviews whose score is how often they praise, less how often they blame, with a constant added."""
    draw = random.Random(seed)
    rows: list[dict[str, object]] = []
    for _ in range(count):
        words = [draw.choice(("superb", "lovely", "awful", "boring", "today", "there")) for _ in range(4)]
        score = 2.5 + sum({"superb": 1, "lovely": 0.5, "awful": -1, "boring": -0.5}.get(word, 0) for word in words)
        rows.append({"text": f"{draw.choice(PEOPLE)} was " + " ".join(words), "score": score})
    return rows


def compared_texts(count: int, seed: int) -> list[dict[str, object]]:
    """Pairs of sentences, and whether they are about one topic."""
    draw = random.Random(seed)
    rows: list[dict[str, object]] = []
    for i in range(count):
        topic = draw.choice(list(TOPICS))
        other = topic if i % 2 else draw.choice([name for name in TOPICS if name != topic])
        first, second = (f"{draw.choice(PEOPLE)} {draw.choice(TOPICS[name])}" for name in (topic, other))
        rows.append({"first": first, "second": second, "same": i % 2})
    return rows


# Multiple choice ------------------------------------------------------------------------------------------------------


def questions(count: int, seed: int, choices: int) -> list[tuple[str, list[str], int]]:
    """(context, endings, the one that happens there)."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        topics = draw.sample(list(TOPICS), choices)
        right = draw.randrange(choices)
        endings = [draw.choice(TOPICS[topic]) for topic in topics]
        found.append((f"{draw.choice(PEOPLE)} works in the {topics[right]} .", endings, right))
    return found


def write_swag(path: Path, count: int, seed: int) -> Path:
    rows: list[dict[str, object]] = []
    for i, (context, endings, right) in enumerate(questions(count, seed, 4)):
        row: dict[str, object] = {"": i, "video-id": f"v_{i}", "fold-ind": i, "startphrase": f"{context} She"}
        row |= {"sent1": context, "sent2": "She", "gold-source": "gold"}
        row |= {f"ending{k}": ending for k, ending in enumerate(endings)} | {"label": right}
        rows.append(row)
    return write_csv(path, rows)


def write_story_cloze(path: Path, count: int, seed: int) -> Path:
    rows: list[dict[str, object]] = []
    for i, (context, endings, right) in enumerate(questions(count, seed, 2)):
        row: dict[str, object] = {"InputStoryid": f"story-{i}"}
        row |= {
            f"InputSentence{k}": text for k, text in enumerate((context, "It is late.", "It rains.", "So what."), 1)
        }
        row |= {f"RandomFifthSentenceQuiz{k}": ending for k, ending in enumerate(endings, 1)}
        rows.append(row | {"AnswerRightEnding": right + 1})
    return write_csv(path, rows)


def write_race(directory: Path, count: int, seed: int) -> Path:
    """A directory of passages, two questions each, as RACE has them."""
    (directory / "high").mkdir(parents=True)
    drawn = questions(count, seed, 4)
    for i in range(0, count, 2):
        pair = drawn[i : i + 2]
        passage = {
            "answers": ["ABCD"[right] for _, _, right in pair],
            "options": [endings for _, endings, _ in pair],
            "questions": [context for context, _, _ in pair],
            "article": "It is late. It rains.",
            "id": f"high{i}.txt",
        }
        (directory / "high" / f"{i}.txt").write_text(json.dumps(passage), encoding="utf-8")
    return directory


def write_choice_jsonl(path: Path, count: int, seed: int) -> Path:
    rows = [{"context": c, "choices": e, "label": right} for c, e, right in questions(count, seed, 4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def topic_texts() -> list[str]:
    words = " ".join(ending for endings in TOPICS.values() for ending in endings)
    return [f"{words} {' '.join(TOPICS)} {' '.join(PEOPLE)} works in the . It is late. It rains. So what. She"]
