"""Tiny labelled tasks in GLUE's, JSONL and SQuAD's layouts, and a prepared corpus that has their words."""

import json
import random
from pathlib import Path
from typing import Any

from commands import run_verb

_NOUNS = "river house winter stone light café engineer “token” summer tree".split()  # noqa: SIM905
_GOOD, _BAD = ("good", "fine", "warm"), ("bad", "cold", "grim")


def write_prepared_corpus(folder: Path, *options: str) -> Path:
    """Prepare a corpus of a few hundred lines with a SentencePiece vocabulary of 120."""
    rng = random.Random(0)
    lines = [_sentence(rng, rng.choice((*_GOOD, *_BAD))) + f" It was {rng.randint(1, 99)}." for _ in range(300)]
    text = folder / "corpus.txt"
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    places = ["--train", text, "--out", folder / "corpus"]
    assert run_verb("prepare", "corpus", *places, "--vocab-size", 120, *options) == 0
    return folder / "corpus"


def write_sst2(folder: Path, rows: int = 60) -> Path:
    """SST-2's files: a sentence is 1 where a good word is in it. The test set has no labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", rows, 1), ("dev", 27, 2), ("test", 7, 3)):
        rng = random.Random(seed)
        lines = ["index\tsentence" if name == "test" else "sentence\tlabel"]
        for index in range(count):
            label = rng.randrange(2)
            sentence = _sentence(rng, rng.choice((_BAD, _GOOD)[label]))
            lines.append(f"{index}\t{sentence}" if name == "test" else f"{sentence}\t{label}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_stsb(folder: Path) -> Path:
    """STS-B's files: a pair of sentences with a score of 0 to 5."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", 40, 1), ("dev", 19, 2), ("test", 5, 3)):
        rng = random.Random(seed)
        columns = ["index", "genre", "sentence1", "sentence2", *(["score"] if name != "test" else [])]
        lines = ["\t".join(columns)]
        for index in range(count):
            score = [f"{rng.uniform(0, 5):.3f}"] if name != "test" else []
            pair = [_sentence(rng, "good"), _sentence(rng, "bad")]
            lines.append("\t".join([str(100 + index), "news", *pair, *score]))
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_squad(folder: Path, questions: int = 24, *, test: bool = False) -> Path:
    """SQuAD's files: the answer is the number after the noun that is asked for; a third has none."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [("train", questions, 1), ("dev", 17, 2), *([("test", 4, 3)] if test else [])]
    for name, count, seed in names:
        rng = random.Random(seed)
        articles = [{"title": "A", "paragraphs": [_paragraph(rng, f"{name}{n}", n) for n in range(count)]}]
        (folder / f"{name}-v2.0.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
    return folder


def prepare(task: str, source: Path, corpus: Path, out: Path, *options: str) -> Path:
    """Run ``prepare task`` in this process."""
    places = ("--data", source, "--corpus", corpus, "--out", out)
    assert run_verb("prepare", "task", "--task", task, *places, *options) == 0
    return out


def _sentence(rng: random.Random, word: str) -> str:
    first, second = rng.sample(_NOUNS, 2)
    return f"The {first} is {word} by the {second}."


def _paragraph(rng: random.Random, name: str, number: int) -> dict[str, Any]:
    nouns = rng.sample(_NOUNS, 5)
    context = " ".join(f"The {noun} was {rng.randint(10, 99)} in “winter” — it's good." for noun in nouns[:4])
    asked, missing = nouns[rng.randrange(4)], nouns[4]
    start = context.index("was", context.index(f"The {asked} ")) + 4
    answer = {"text": context[start : start + 2], "answer_start": start}
    with_answer = {"id": name, "question": f"What was the {asked}?", "answers": [answer], "is_impossible": False}
    without = {"id": f"{name}n", "question": f"What was the {missing}?", "answers": [], "is_impossible": True}
    return {"context": context, "qas": [without if number % 3 == 2 else with_answer]}
