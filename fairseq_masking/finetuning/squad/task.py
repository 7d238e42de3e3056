"""Extractive question answering on SQuAD 2.0, with answers that may be missing (2204.03243, Table 4)."""

import logging
from dataclasses import dataclass
from typing import Any

from fairseq.criterions import FairseqCriterion
from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel
from fairseq.tasks import register_task
from omegaconf import II, MISSING

from fairseq_masking.compat.options import option
from fairseq_masking.corpus.manifest import check_dictionary
from fairseq_masking.data import load_dictionary
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.squad.criterion import SpanHead
from fairseq_masking.finetuning.squad.dataset import NUM_SPECIALS, SquadDataset, SquadExamples
from fairseq_masking.tasks.masked_pretraining import TextTask, data_folders

__all__ = ["SquadConfig", "SquadTask"]

logger = logging.getLogger(__name__)


@dataclass
class SquadConfig(FairseqDataclass):
    """Options of ``squad``."""

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
        """Check the data folder and load the dictionary."""
        folder = data_folders(cfg.data)[0]
        check_dictionary(folder)
        return cls(cfg, load_dictionary(folder / "dict.txt"))

    @property
    def target_dictionary(self) -> None:
        """Answers are places in the text."""
        return None

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build the model and give it the head."""
        model = super().build_model(cfg, from_checkpoint)
        model.classification_heads[self.span_head] = SpanHead(model.cfg.encoder_embed_dim)
        return model

    def build_criterion(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> FairseqCriterion:
        """Build the criterion, which must be ``squad``."""
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

    def get_batch_iterator(self, dataset: SquadDataset, required_batch_size_multiple: int = 1, **kwargs: Any) -> Any:
        """Batch the rows, all of them: fairseq drops what is left over from a multiple."""
        return super().get_batch_iterator(dataset, required_batch_size_multiple=1, **kwargs)
