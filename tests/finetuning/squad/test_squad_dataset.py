"""Rows of questions and windows: every token in its place, every answer where its text is."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary

from fairseq_masking.corpus.encoding import ArrayWriter
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.squad.task import SquadDataset, SquadExamples, windows

PARAGRAPHS = ["abcdefghijkl", "xyz"]  # a token a character
QUESTIONS = [(0, 4, 5, ("ef",)), (0, -1, -1, ()), (1, 0, 2, ("xyz", "x"))]


@pytest.fixture
def dictionary() -> Dictionary:
    result = Dictionary()
    for character in "abcdefghijklmnopqrstuvwxyz?":
        result.add_symbol(character)
    return result


@pytest.fixture
def examples(tmp_path: Path, dictionary: Dictionary) -> SquadExamples:
    with ArrayWriter(tmp_path / "valid.paragraphs") as ids, ArrayWriter(tmp_path / "valid.offsets") as places:
        for text in PARAGRAPHS:
            ids.add([dictionary.index(character) for character in text])
            places.add([(place, place + 1) for place in range(len(text))])
    with ArrayWriter(tmp_path / "valid.questions") as asked, ArrayWriter(tmp_path / "valid.spans") as spans:
        for paragraph, first, last, _ in QUESTIONS:
            asked.add([dictionary.index("q")] * (2 + paragraph))
            spans.add([paragraph, first, last])
    questions = [{"id": str(n), "answers": found[3]} for n, found in enumerate(QUESTIONS)]
    (tmp_path / "valid.json").write_text(json.dumps({"paragraphs": PARAGRAPHS, "questions": questions}))
    return SquadExamples(tmp_path, "valid", dictionary)


def build(examples: SquadExamples, dictionary: Dictionary, **options: object) -> SquadDataset:
    scored = options.pop("with_references", True)
    cfg = Namespace(**{"tokens_per_sample": 11, "doc_stride": 3, "question_tokens": 2, "seed": 1, **options})
    return SquadDataset(examples, dictionary, cfg, with_references=scored)


@pytest.mark.parametrize(
    ("length", "room", "stride", "expected"),
    [
        (5, 5, 2, [(0, 5)]),
        (6, 5, 2, [(0, 5), (2, 6)]),
        (12, 5, 3, [(0, 5), (3, 8), (6, 11), (9, 12)]),
        (12, 5, 99, [(0, 5), (5, 10), (10, 12)]),
        (0, 5, 3, [(0, 0)]),
    ],
)
def test_windows(length: int, room: int, stride: int, expected: list[tuple[int, int]]) -> None:
    assert windows(length, room, stride) == expected


def test_rows_by_hand(examples: SquadExamples, dictionary: Dictionary) -> None:
    dataset = build(examples, dictionary)
    texts = ["".join(dictionary[index] for index in dataset[n]["tokens"]) for n in range(len(dataset))]
    ends = ["<s>qq</s></s>abcde</s>", "<s>qq</s></s>defgh</s>", "<s>qq</s></s>ghijk</s>", "<s>qq</s></s>jkl</s>"]
    assert texts == [*ends, *ends, "<s>qq</s></s>xyz</s>"]
    # "ef" is whole in the second window alone, where it begins at the seventh column
    assert [dataset[n]["targets"] for n in range(9)] == [(0, 0), (6, 7), *[(0, 0)] * 6, (5, 7)]
    # the third question has 3 tokens
    assert dataset.summary == "9 rows of 3 questions (1 cut at --question-tokens 2)"
    assert dataset.sizes.tolist() == [len(dataset[n]["tokens"]) for n in range(len(dataset))]


def test_every_column_of_the_window_leads_to_its_text(examples: SquadExamples, dictionary: Dictionary) -> None:
    dataset = build(examples, dictionary)
    for index in range(len(dataset)):
        item = dataset[index]
        begin, end = item["window"]
        assert item["reference"].text(begin, end - 1) == "".join(
            dictionary[token] for token in item["tokens"][begin:end]
        )
        first, last = item["targets"]
        if first:
            assert item["reference"].text(first, last) == item["reference"].answers[0]


def test_batches(examples: SquadExamples, dictionary: Dictionary) -> None:
    dataset = build(examples, dictionary)
    batch = dataset.collater([dataset[1], dataset[8]])
    tokens = batch["net_input"]["src_tokens"]
    assert tokens.shape == (2, 11) and tokens[1, 9:].tolist() == [dictionary.pad()] * 2
    assert batch["net_input"]["src_lengths"].tolist() == [11, 9] and batch["ntokens"] == 20
    assert batch["window"].tolist() == [[5, 10], [5, 8]] and batch["targets"].tolist() == [[6, 7], [5, 7]]
    assert [reference.question for reference in batch["references"]] == [0, 2]
    assert batch["net_input"]["shape"] == {"has_padding": True}
    assert dataset.collater([dataset[1]])["net_input"]["shape"] == {"has_padding": False}
    assert "references" not in build(examples, dictionary, with_references=False).collater([dataset[1]])
    assert dataset.collater([]) == {}


def test_order(examples: SquadExamples, dictionary: Dictionary) -> None:
    dataset, other = build(examples, dictionary), build(examples, dictionary, seed=5)
    order = dataset.ordered_indices()
    assert sorted(order) == list(range(9)) and (np.diff(dataset.sizes[order]) >= 0).all()
    assert order.tolist() == dataset.ordered_indices().tolist() != other.ordered_indices().tolist()


def test_files_of_two_preparations(examples: SquadExamples, dictionary: Dictionary, tmp_path: Path) -> None:
    with ArrayWriter(tmp_path / "valid.spans") as spans:
        spans.add([0, 1, 1])
    with pytest.raises(UserError, match="not of one preparation"):
        SquadExamples(tmp_path, "valid", dictionary)
    assert torch.is_tensor(examples.questions[0])
