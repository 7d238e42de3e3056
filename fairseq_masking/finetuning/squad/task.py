"""Extractive question answering on SQuAD 2.0, with answers that may be missing (2204.03243, Table 4).

A row is a question with a window of its paragraph: ``<s> question </s></s> window </s>``. A paragraph that does
not fit is cut into overlapping windows, each a row of its own; in one that does not hold the whole answer the
answer is <s>, as where there is none.

Shapes: B rows, T length.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fairseq.criterions import FairseqCriterion
from fairseq.data import Dictionary, data_utils
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel
from fairseq.tasks import register_task
from omegaconf import II, MISSING

from fairseq_masking.compat.options import option
from fairseq_masking.corpus.indexed import check_indexed
from fairseq_masking.corpus.manifest import check_contents, check_dictionary
from fairseq_masking.data import load_dictionary, load_tokens
from fairseq_masking.data.blocks import SizedDataset
from fairseq_masking.errors import UserError
from fairseq_masking.files import read_json
from fairseq_masking.finetuning.squad.criterion import SpanHead
from fairseq_masking.tasks.masked_pretraining import TextTask, data_folders

__all__ = ["Reference", "SquadConfig", "SquadDataset", "SquadExamples", "SquadTask", "windows"]

logger = logging.getLogger(__name__)

NUM_SPECIALS = 4  # <s> question </s></s> window </s>


@dataclass
class SquadConfig(FairseqDataclass):
    data: str = option(MISSING, "folder made by prepare task --task squad")
    tokens_per_sample: int = option(512, "longest row: <s> question </s></s> paragraph </s>")
    doc_stride: int = option(128, "tokens from one window of a long paragraph to the next one")
    question_tokens: int = option(64, "longest question; the rest is cut off")
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")


@register_task("squad", dataclass=SquadConfig)
class SquadTask(TextTask):
    """Rows of a question and a window of its paragraph; the model gets a head for first and last token.

    The head is one of the model's classification heads, which any model with an encoder has.
    """

    cfg: SquadConfig
    span_head = "span"  # its name
    name = "squad"

    def __init__(self, cfg: SquadConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        for name in ("doc_stride", "question_tokens"):
            if getattr(cfg, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)} is below 1")
        if cfg.tokens_per_sample < cfg.question_tokens + NUM_SPECIALS + 1:
            raise UserError(
                f"--tokens-per-sample {cfg.tokens_per_sample} leaves no room for a paragraph beside"
                f" --question-tokens {cfg.question_tokens}: raise the one or lower the other"
            )

    @classmethod
    def setup_task(cls, cfg: SquadConfig, **kwargs: Any) -> "SquadTask":
        folder = data_folders(cfg.data)[0]
        check_dictionary(folder)
        return cls(cfg, load_dictionary(folder / "dict.txt"))

    @property
    def target_dictionary(self) -> None:
        return None  # answers are places in the text

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> BaseFairseqModel:
        model = super().build_model(cfg, from_checkpoint)
        model.classification_heads[self.span_head] = SpanHead(model.cfg.encoder_embed_dim)
        return model

    def build_criterion(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> FairseqCriterion:
        if getattr(cfg, "_name", None) != "squad":
            raise UserError(f"--task squad goes with --criterion squad, not {getattr(cfg, '_name', None)}")
        return super().build_criterion(cfg, from_checkpoint)

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        """Load a split; what is not the training split comes with what answers are scored with."""
        folder = data_folders(self.cfg.data)[0]
        examples = SquadExamples(folder, split, self.dictionary)
        scored = not (combine and split == self.cfg.train_subset)
        dataset = SquadDataset(examples, self.dictionary, self.cfg, with_references=scored)
        logger.info("%s: %s from %s", split, dataset.summary, folder)
        self.datasets[split] = dataset

    def get_batch_iterator(self, dataset: "SquadDataset", required_batch_size_multiple: int = 1, **kwargs: Any) -> Any:
        """Batch the rows, all of them: fairseq drops what is left over from a multiple."""
        return super().get_batch_iterator(dataset, required_batch_size_multiple=1, **kwargs)


@dataclass(frozen=True)
class Reference:
    """What a row's prediction is turned into text with, and compared to."""

    question: int  # number of the question in its split
    paragraph: str  # the paragraph's text as it stands in SQuAD's file
    offsets: npt.NDArray[np.int32]  # int32 ``[window, 2]``, first character and the one after the last of each token
    first_column: int  # column of the window's first token in the row
    answers: tuple[str, ...]  # texts of all answers; none where the paragraph does not answer the question

    def text(self, start: int, end: int) -> str:
        """Return the paragraph's text from the token in column ``start`` to that in column ``end``."""
        first, last = start - self.first_column, end - self.first_column
        return self.paragraph[self.offsets[first, 0] : self.offsets[last, 1]]


class SquadExamples:
    """A split as prepare.py wrote it; ``spans`` are int64 ``[questions, 3]``."""

    def __init__(self, folder: Path, split: str, dictionary: Dictionary) -> None:
        self._prefix = str(folder / split)
        self.paragraphs = load_tokens(f"{self._prefix}.paragraphs", dictionary)
        self.questions = load_tokens(f"{self._prefix}.questions", dictionary)
        for name in ("offsets", "spans"):
            check_indexed(f"{self._prefix}.{name}")
        self.offsets = MMapIndexedDataset(f"{self._prefix}.offsets")
        spans = MMapIndexedDataset(f"{self._prefix}.spans")
        self.spans = np.stack([spans[index].numpy() for index in range(len(spans))]).astype(np.int64)
        if len(self.spans) != len(self.questions) or len(self.offsets) != len(self.paragraphs):
            raise UserError(f"{self._prefix}.*: not of one preparation; prepare the task again, with --force")

    def read_texts(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Return the paragraphs' texts, and ``id`` and ``answers`` of each question."""
        path = Path(f"{self._prefix}.json")
        check_contents(path)
        record = read_json(path, "prepare the data again")
        return record["paragraphs"], record["questions"]


def windows(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Return first and one-after-last token of the windows over a paragraph of ``length`` tokens."""
    starts = [0]
    while starts[-1] + room < length:
        starts.append(starts[-1] + min(stride, room))
    return [(start, min(start + room, length)) for start in starts]


class SquadDataset(SizedDataset):
    """Rows of at most ``tokens_per_sample`` tokens; ``with_references`` with what predictions are scored with."""

    def __init__(self, examples: SquadExamples, dictionary: Dictionary, cfg: Any, *, with_references: bool) -> None:
        super().__init__()
        self.examples = examples
        self.cfg = cfg
        self._bos, self._eos, self._pad = dictionary.bos(), dictionary.eos(), dictionary.pad()
        self.question_lengths = np.minimum(examples.questions.sizes, cfg.question_tokens).astype(np.int64)
        rooms = cfg.tokens_per_sample - NUM_SPECIALS - self.question_lengths
        lengths = examples.paragraphs.sizes[examples.spans[:, 0]]
        rows = [
            (question, *window)
            for question, (length, room) in enumerate(zip(lengths.tolist(), rooms.tolist(), strict=True))
            for window in windows(length, room, cfg.doc_stride)
        ]
        self.rows = np.array(rows, dtype=np.int64)  # question, first and one-after-last paragraph token
        questions, starts, stops = self.rows.T
        self.sizes = self.question_lengths[questions] + (stops - starts) + NUM_SPECIALS
        self._texts = examples.read_texts() if with_references else None

    @property
    def summary(self) -> str:
        cut = np.count_nonzero(self.question_lengths < self.examples.questions.sizes)
        questions = f"{len(self.question_lengths)} questions ({cut} cut at --question-tokens"
        return f"{len(self)} rows of {questions} {self.cfg.question_tokens})"

    def __getitem__(self, index: int) -> dict[str, Any]:
        question, start, stop = self.rows[index].tolist()
        paragraph, first, last = self.examples.spans[question].tolist()
        asked = self.examples.questions[question][: self.question_lengths[question]].tolist()
        window = self.examples.paragraphs[paragraph][start:stop].tolist()
        column = len(asked) + 3  # of the window's first token
        inside, eos = start <= first and last < stop, self._eos
        item = {
            "id": index,
            "tokens": torch.tensor([self._bos, *asked, eos, eos, *window, eos]),
            "window": (column, column + len(window)),
            "targets": (first - start + column, last - start + column) if inside else (0, 0),
        }
        if self._texts is not None:
            paragraphs, questions = self._texts
            item["reference"] = Reference(
                question,
                paragraphs[paragraph],
                self.examples.offsets[paragraph].numpy().reshape(-1, 2)[start:stop],
                column,
                tuple(questions[question]["answers"]),
            )
        return item

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch; {} for no samples.

        ``window`` int64 ``[B, 2]``: first and one-after-last column of the paragraph; ``targets`` int64
        ``[B, 2]``: columns of the answer's first and last token, 0 (<s>) for none; ``references``: a list of
        B, where the dataset has them.
        """
        if not samples:
            return {}
        tokens = [sample["tokens"] for sample in samples]
        lengths = torch.tensor([len(row) for row in tokens])
        batch = {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "net_input": {
                "src_tokens": data_utils.collate_tokens(tokens, self._pad),
                "src_lengths": lengths,
                "shape": {"has_padding": bool((lengths < lengths.max()).any())},
            },
            "window": torch.tensor([sample["window"] for sample in samples]),
            "targets": torch.tensor([sample["targets"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": int(lengths.sum()),
        }
        if self._texts is not None:
            batch["references"] = [sample["reference"] for sample in samples]
        return batch

    def ordered_indices(self) -> npt.NDArray[np.int64]:
        """A permutation from the seed, sorted by length within it: batches need little padding."""
        indices = np.random.default_rng(self.cfg.seed).permutation(len(self))
        return indices[np.argsort(self.sizes[indices], kind="stable")]
