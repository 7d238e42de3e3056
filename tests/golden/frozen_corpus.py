"""Prepared data: the raw texts, how they are prepared, and what of the result is compared."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

from frozen_files import DATA, folder_digests, run_command_here

__all__ = ["CORPUS", "GPT2", "PREPARED", "TEXT", "WORDPIECES", "prepare", "record", "write_texts"]

TEXT, BLANK_TEXT, WORDPIECES = (DATA / "raw" / name for name in ("text.txt", "blank.txt", "vocab.txt"))
CORPUS = DATA / "corpus"
SENTENCES = DATA / "raw" / "sentences"
QUESTIONS = DATA / "raw" / "questions"
GPT2 = Path(__file__).resolve().parents[3] / "shared" / "data" / "gpt2_bpe"
GPT2_FILES = ["--gpt2-encoder-json", GPT2 / "encoder.json", "--gpt2-vocab-bpe", GPT2 / "vocab.bpe"]

# Name -> what prepare corpus is told beside --out. "corpus" is the one that is kept.
PREPARED: dict[str, list[str | Path]] = {
    "corpus": ["--train", TEXT, "--vocab-size", "200", "--valid-fraction", "0.1"],
    "byte_fallback": [
        "--train", TEXT, "--vocab-size", "330", "--byte-fallback", "--character-coverage", "0.99",
        "--lowercase", "--input-sentences", "200", "--seed", "7",
    ],
    "shards": [
        "--train", BLANK_TEXT, "--documents", "blank-line", "--shards", "2", "--split-sentences",
        "--moses-normalize", "--moses-tokenize", "--tokenizer", "sentencepiece", "--sentencepiece-model",
        CORPUS / "tokenizer" / "sentencepiece.model", "--valid-fraction", "0.2", "--seed", "3",
    ],
    "of_a_corpus": ["--train", BLANK_TEXT, "--valid", TEXT, "--tokenizer-from", CORPUS],
    "wordpiece": [
        "--train", TEXT, "--tokenizer", "wordpiece", "--wordpiece-vocab", WORDPIECES, "--wordpiece-lowercase",
        "--valid-fraction", "0.1",
    ],
    "gpt2": ["--train", TEXT, "--tokenizer", "gpt2", *GPT2_FILES, "--valid-fraction", "0.1"],
}  # fmt: skip
FINETUNING = {"sentences": ("SST-2", SENTENCES), "questions": ("squad", QUESTIONS)}
TRAINS_TOKENIZER = ("corpus", "byte_fallback")

_SYLLABLES = "ka lo mi ren to sha vel ba nu or ti sen dra pe mor lin".split()  # noqa: SIM905
_MARKS = (".", ".", ".", "!", "?", " (twice).", ", it's said.", " — “so”.")
_VERBS = {"0": ("froze", "failed"), "1": ("shone", "won")}


def prepare(name: str, output: Path, *more: str) -> Path:
    """Prepare one of ``PREPARED``, or a task of ``FINETUNING``, in this process; returns ``output``."""
    if name in FINETUNING:
        task, source = FINETUNING[name]
        options = ["--task", task, "--data", source, "--corpus", CORPUS]
        run_command_here("prepare", "task", options=[*options, "--out", output, *more])
    else:
        run_command_here("prepare", "corpus", options=[*PREPARED[name], "--out", output, *more])
    return output


def record(folder: Path) -> dict[str, Any]:
    """Every file's SHA-256; of manifests what does not change with versions, places and time."""
    manifests = {}
    for path in sorted(folder.rglob("manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        del manifest["versions"]
        manifest.pop("digests", None)  # its files' are compared themselves
        # A shard's own manifest names places, so its size hangs on them.
        manifest["outputs"] = {
            name: size for name, size in manifest["outputs"].items() if Path(name).name != "manifest.json"
        }
        for files in manifest["inputs"].values():
            for file in files:
                file["name"] = Path(file["name"]).name
        manifests[str(path.relative_to(folder))] = _without_places(manifest)
    return {"files": folder_digests(folder, without=("manifest.json",)), "manifests": manifests}


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_places(part) for part in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def write_texts() -> None:
    """The raw texts, from a seed."""
    shutil.rmtree(TEXT.parent, ignore_errors=True)
    SENTENCES.mkdir(parents=True)
    QUESTIONS.mkdir()
    rng = random.Random(20260101)
    names = sorted({"".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3))) for _ in range(60)})
    # The next word is one of three that follow a word, so that there is something to learn.
    follows = {name: rng.sample(names, 3) for name in names}
    lines = [_line(rng, follows) for _ in range(300)]
    TEXT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    documents = ["\n".join(lines[start : start + 3]) for start in range(0, 90, 3)]
    BLANK_TEXT.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    letters = sorted({letter for line in lines for letter in line.lower() if letter.strip()})
    pieces = [*letters, *(f"##{letter}" for letter in letters), *_SYLLABLES, *(f"##{s}" for s in _SYLLABLES)]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    WORDPIECES.write_text("\n".join([*specials, *dict.fromkeys(pieces)]) + "\n", encoding="utf-8")
    for split, count in (("train", 40), ("dev", 20), ("test", 5)):
        _write_sentences(SENTENCES / f"{split}.tsv", rng, names, count, labels=split != "test")
    for split, count in (("train", 24), ("dev", 12)):
        _write_questions(QUESTIONS / f"{split}-v2.0.json", rng, names, count)


def _line(rng: random.Random, follows: dict[str, list[str]]) -> str:
    word = rng.choice(sorted(follows))
    words = [word.capitalize()]
    for _ in range(rng.randint(3, 16)):
        word = rng.choice(follows[word])
        words.append(word if rng.random() < 0.9 else f"{word}-{rng.randint(1, 99)}")
    return " ".join(words) + rng.choice(_MARKS)


def _write_sentences(path: Path, rng: random.Random, names: list[str], count: int, *, labels: bool) -> None:
    rows = ["sentence\tlabel" if labels else "index\tsentence"]
    for index in range(count):
        label = rng.choice("01")
        sentence = f"The {rng.choice(names)} {rng.choice(_VERBS[label])} by {rng.choice(names)} ."
        rows.append(f"{sentence}\t{label}" if labels else f"{index}\t{sentence}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _write_questions(path: Path, rng: random.Random, names: list[str], count: int) -> None:
    paragraphs = []
    for number in range(count):
        asked, *others = rng.sample(names, 5)
        told = others if number % 3 == 2 else [asked, *others[:3]]
        context = " ".join(f"{name} was {rng.randint(10, 99)}." for name in told)
        question = {"id": f"{path.stem}{number}", "question": f"What was {asked}?", "answers": []}
        if told[0] == asked:
            start = len(asked) + len(" was ")
            question["answers"].append({"text": context[start : start + 2], "answer_start": start})
        question["is_impossible"] = not question["answers"]
        paragraphs.append({"context": context, "qas": [question]})
    articles = [{"title": "A", "paragraphs": paragraphs}]
    path.write_text(json.dumps({"version": "v2.0", "data": articles}, indent=1), encoding="utf-8")
