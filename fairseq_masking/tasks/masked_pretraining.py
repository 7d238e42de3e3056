"""The pre-training task of every method: which text, which positions are masked, how they are corrupted."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, get_args

import numpy as np
import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion
from fairseq.data import Dictionary, iterators
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II, MISSING

from fairseq_masking.compat.options import option
from fairseq_masking.corpus.collocations import read_collocations
from fairseq_masking.corpus.dictionary import check_shards, masking_vocabulary
from fairseq_masking.corpus.manifest import check_dictionary
from fairseq_masking.data import BlockDataset, BreakMode, MaskedDataset, load_dictionary, load_tokens
from fairseq_masking.data.blocks import document_bounds
from fairseq_masking.errors import UserError
from fairseq_masking.masking import Masker, MaskingConfig, MaskingRate, MaskUnit, RateSchedule, SplitsLaw, SplitsOver
from fairseq_masking.tasks.following_masks import AdaptiveLaw, draw_masks
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = ["MaskedPretrainingConfig", "MaskedPretrainingTask"]

logger = logging.getLogger(__name__)

SAMPLE_BREAK_MODE_CHOICES = ChoiceEnum(list(get_args(BreakMode)))
MASK_UNIT_CHOICES = ChoiceEnum(list(get_args(MaskUnit)))
MASK_LAW_CHOICES = ChoiceEnum(["uniform", "adaptive"])
MASK_PROB_SCHEDULE_CHOICES = ChoiceEnum(list(get_args(RateSchedule)))
MASK_SPLITS_LAW_CHOICES = ChoiceEnum(list(get_args(SplitsLaw)))
MASK_SPLITS_OVER_CHOICES = ChoiceEnum(list(get_args(SplitsOver)))


@dataclass
class MaskedPretrainingConfig(FairseqDataclass):
    """Options of ``masked_pretraining``; names shared with fairseq's ``masked_lm`` mean the same."""

    data: str = option(MISSING, "prepared corpus: a folder, or several with ':' between, one an epoch in turn")
    sample_break_mode: SAMPLE_BREAK_MODE_CHOICES = option(
        "none",
        "none: full blocks of text; complete: blocks of whole lines; complete_doc: the same"
        " within a document; eos: a line each",
    )
    tokens_per_sample: int = option(512, "tokens of a block, <s> and </s> included (at least 4)")
    mask_prob: float = option(0.15, "share of a sequence's tokens that is predicted")
    mask_prob_end: Optional[float] = option(None, "the same at --max-update, where --mask-prob is that of the start")
    mask_prob_schedule: MASK_PROB_SCHEDULE_CHOICES = option(
        "linear", "how the share gets from --mask-prob to --mask-prob-end; step: at half of the updates"
    )
    leave_unmasked_prob: float = option(0.1, "share of the predicted tokens that stays as it is")
    random_token_prob: float = option(0.1, "share of the predicted tokens that becomes a random token")
    mask_unit: MASK_UNIT_CHOICES = option(
        "subword", "what is masked as a whole: a subword, a word, a span of words, a collocation (measure pmi)"
    )
    span_geometric_p: float = option(0.2, "p of the geometric law of a span's length in words (--mask-unit span)")
    span_max_length: int = option(10, "longest span in words (--mask-unit span)")
    mask_splits: int = option(1, "K masks of a sequence that never overlap, K rows of the batch (fully-explored MLM)")
    mask_splits_law: MASK_SPLITS_LAW_CHOICES = option(
        "disjoint", "the K masks never overlap, or are independent: the control of fully-explored MLM"
    )
    mask_splits_over: MASK_SPLITS_OVER_CHOICES = option(
        "batch", "a sequence gets its K masks at once, or one in each of K epochs that follow each other"
    )
    mask_law: MASK_LAW_CHOICES = option(
        "uniform", "which tokens: all alike, or adaptive: those that the model guesses less often"
    )
    mask_law_updates: int = option(200, "updates after which --mask-law adaptive looks at the model's guesses")
    valid_mask_prob: float = option(0.15, "--mask-prob of validation, which always masks single subwords once")
    attend_within_documents: bool = option(
        False, "no token attends to another document of its row, positions restart in each; without padding"
    )
    global_batch: Optional[int] = option(
        None, "rows of an update on all devices: --update-freq follows from it and from --batch-size, the most at once"
    )
    skip_nonfinite: int = option(
        0, "updates of a run whose gradients are not finite that are left out; one more ends it"
    )
    start_over: bool = option(
        False, "begin anew where --save-dir has checkpoints: these are moved into a folder there, none is lost"
    )
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")
    update_freq: List[int] = II("optimization.update_freq")
    max_update: int = II("optimization.max_update")
    bpe: Any = II("bpe")


class TextTask(FairseqTask):
    """Rows of one dictionary's symbols, at most ``tokens_per_sample`` long, for models of this package."""

    name: str

    def __init__(self, cfg: Any, dictionary: Dictionary) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary

    @property
    def source_dictionary(self) -> Dictionary:
        """The dictionary, ``<mask>`` included."""
        return self.dictionary

    def max_positions(self) -> int:
        """Longest row, in tokens."""
        return self.cfg.tokens_per_sample

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build the model and check that a row fits its positions."""
        model = super().build_model(cfg, from_checkpoint)
        if getattr(model, "output_class", None) is None:
            raise UserError(
                f"--arch {getattr(cfg, '_name', type(model).__name__)} does not train with --task"
                f" {self.name}: choose one of fairseq_masking's, such as mlm_base"
            )
        if self.cfg.tokens_per_sample > model.max_positions():
            raise UserError(
                f"--tokens-per-sample {self.cfg.tokens_per_sample} is more than the model's --max-positions"
                f" {model.max_positions()}: lower the one or raise the other"
            )
        return model


@register_task("masked_pretraining", dataclass=MaskedPretrainingConfig)
class MaskedPretrainingTask(TextTask):
    """Blocks of clean text with their corruption beside it (design.md, "The batch")."""

    cfg: MaskedPretrainingConfig
    pretrains = True  # models build what pre-training needs besides the encoder
    name = "masked_pretraining"

    def __init__(self, cfg: MaskedPretrainingConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        self.mask_idx = dictionary.index(MASK_SYMBOL)
        self._output_class: type | None = None
        self._compiles = False
        self._rate, self._law = None, None
        if cfg.mask_prob_end is not None:
            self._rate = MaskingRate(cfg.mask_prob, cfg.mask_prob_end, str(cfg.mask_prob_schedule), cfg.max_update)
        if str(cfg.mask_law) == "adaptive":
            self._law = AdaptiveLaw(len(dictionary), cfg.mask_law_updates)
        self._train_masking = self._masking_config(
            mask_prob=cfg.mask_prob if self._rate is None else self._rate.highest,
            unit=str(cfg.mask_unit),
            span_geometric_p=cfg.span_geometric_p,
            span_max_length=cfg.span_max_length,
            num_splits=cfg.mask_splits,
            splits_law=str(cfg.mask_splits_law),
            splits_over=str(cfg.mask_splits_over),
            visit_epochs=len(utils.split_paths(cfg.data)),
        )
        self._valid_masking = self._masking_config(mask_prob=cfg.valid_mask_prob)

    @classmethod
    def setup_task(cls, cfg: MaskedPretrainingConfig, **kwargs: Any) -> "MaskedPretrainingTask":
        """Check the data folders and load the dictionary."""
        folders = data_folders(cfg.data)
        dictionary = load_dictionary(folders[0] / "dict.txt")
        for folder in folders:
            check_dictionary(folder)
        check_shards(dictionary.symbols, folders)
        logger.info("dictionary: %d symbols", len(dictionary))
        return cls(cfg, dictionary)

    target_dictionary = TextTask.source_dictionary

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> BaseFairseqModel:
        model = super().build_model(cfg, from_checkpoint)
        self._output_class, self._compiles = model.output_class, model.compilation.possible
        return model

    def build_criterion(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> FairseqCriterion:
        """Build the criterion and check that the model gives what it needs."""
        criterion = super().build_criterion(cfg, from_checkpoint)
        required = getattr(criterion, "required_output", None)
        name = getattr(cfg, "_name", type(criterion).__name__)
        if required is None:
            raise UserError(
                f"--criterion {name} does not train with --task masked_pretraining: choose one of"
                " fairseq_masking's, such as mlm or fully_explored_mlm"
            )
        if self._output_class is not None and not issubclass(self._output_class, required):
            raise UserError(
                f"--criterion {name} needs a model that returns {required.__name__}; this --arch returns"
                f" {self._output_class.__name__}: see the README's table of methods"
            )
        return criterion

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """Load a split: the training split with training's masks, any other with validation's fixed ones.

        Only the trainer asks for the training split with ``combine``: fairseq-validate gets validation masks.
        """
        training = combine and split == self.cfg.train_subset
        folders = data_folders(self.cfg.data)
        folder = folders[(epoch - 1) % len(folders)] if training else folders[0]
        tokens = load_tokens(str(folder / split), self.dictionary, combine)
        blocks = BlockDataset(
            tokens,
            tokens_per_sample=self.cfg.tokens_per_sample,
            bos=self.dictionary.bos(),
            eos=self.dictionary.eos(),
            pad=self.dictionary.pad(),
            break_mode=str(self.cfg.sample_break_mode),
            drop_last=training,
        )
        logger.info("%s: %d blocks from %s", split, len(blocks), folder)
        masking = self._train_masking if training else self._valid_masking
        vocabulary = masking_vocabulary(
            self.dictionary,
            folder=folder,
            bpe=self.cfg.bpe,
            need_words=masking.unit != "subword",
            collocations=read_collocations(folder, self.dictionary) if masking.unit == "pmi" else frozenset(),
        )
        self.datasets[split] = MaskedDataset(
            blocks,
            Masker(masking, vocabulary),
            pad_index=self.dictionary.pad(),
            seed=self.cfg.seed,
            fixed_epoch=None if training else 1,
            draws=not training or (self._rate is None and self._law is None),
            document_bounds=document_bounds(folder, tokens) if self.cfg.attend_within_documents else None,
        )
        if training and masking.unit != "subword":
            self.datasets[split].tell_words()

    def filter_indices_by_size(
        self, indices: np.ndarray, dataset: MaskedDataset, max_positions: Any = None, *_: Any, **__: Any
    ) -> np.ndarray:
        """Leave lines that are too long out of both splits, counted in the log; something must be left."""
        kept = super().filter_indices_by_size(indices, dataset, max_positions, ignore_invalid_inputs=True)
        if len(kept) == 0:
            raise UserError(
                f"none of {len(dataset)} blocks fits --tokens-per-sample {self.max_positions()} and has"
                f" {dataset.masker.config.num_disjoint} tokens to mask: use longer blocks or --sample-break-mode none"
            )
        return kept

    def get_batch_iterator(
        self,
        dataset: MaskedDataset,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
        num_shards: int = 1,
        **kwargs: Any,
    ) -> iterators.EpochBatchIterator:
        """Batch items of K rows each so that the options count rows, and give each update whole batches.

        Workers do not outlive an epoch: they would keep the old one, and so the old masks.
        """
        known = dataset in self.dataset_to_epoch_iter
        training = dataset.fixed_epoch is None
        num_splits = dataset.masker.num_splits
        if max_sentences is not None:
            if max_sentences % num_splits:
                raise UserError(
                    f"--batch-size {max_sentences} is not a multiple of --mask-splits {num_splits}: all"
                    " masks of a sequence go into one batch"
                )
            max_sentences //= num_splits
        # fairseq cuts batches to this multiple and drops what is left over: validation must not lose anything,
        # and a training batch is as large as its option says
        multiple = max(1, required_batch_size_multiple // num_splits) if training else 1
        if max_sentences is not None:
            multiple = math.gcd(multiple, max_sentences) if max_sentences <= len(dataset) else 1
            if training and not known and max_sentences > len(dataset):
                logger.warning(f"all {len(dataset)} sequences of the corpus make one batch, smaller than --batch-size")
        longest = dataset.sizes[dataset.sizes <= self.max_positions()].max(initial=0) * num_splits
        if max_tokens is not None and max_tokens < longest:
            rows = f"the {num_splits} rows of a sequence have" if num_splits > 1 else "a row has"
            raise UserError(
                f"--max-tokens {max_tokens} ({'training' if training else 'validation'}): {rows} {longest} tokens:"
                " give at least so many, or shorter rows (--tokens-per-sample)"
            )
        sizes = {"max_tokens": max_tokens, "max_sentences": max_sentences, "required_batch_size_multiple": multiple}
        batches = super().get_batch_iterator(dataset, **sizes, num_shards=num_shards, **kwargs)
        batches.reuse_dataloader = batches.persistent_workers = False
        if training and not known:
            self._cut_to_whole_updates(batches, num_shards, full=self._compiles and not dataset.blocks.ragged)
        return batches

    def _cut_to_whole_updates(self, batches: iterators.EpochBatchIterator, num_shards: int, full: bool) -> None:
        """Leave out a random few batches, so that no rank ends an epoch on a dummy batch.

        Args:
            full: also what is shorter than a full batch: after a second shape torch.compile keeps to none.
        """
        most = max(map(len, batches.frozen_batches), default=0) if full else 0
        frozen = tuple(batch for batch in batches.frozen_batches if len(batch) >= most)
        if short := len(batches.frozen_batches) - len(frozen):
            logger.info(f"{short} of {short + len(frozen)} batches left out: not full, compiled for one shape")
            batches._frozen_batches = frozen
        multiple = num_shards * math.lcm(*self.cfg.update_freq)
        whole = len(frozen) - len(frozen) % multiple
        if whole == 0:
            raise UserError(
                f"the training data gives {len(frozen)} batches, an update takes {multiple} (ranks x"
                " --update-freq): lower --batch-size, --max-tokens, --update-freq or the number of ranks"
            )
        if whole < len(frozen):
            kept = np.random.default_rng(self.cfg.seed).permutation(len(frozen))[:whole]
            logger.info("%d of %d batches left out: updates take %d each", len(frozen) - whole, len(frozen), multiple)
            batches._frozen_batches = tuple(frozen[index] for index in np.sort(kept))

    def train_step(
        self,
        sample: dict[str, Any],
        model: torch.nn.Module,
        criterion: FairseqCriterion,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, int, dict[str, Any]]:
        """Forward and backward, dropout seeded by the batch: 2 ranks draw what 2 micro-batches draw."""
        if "undrawn" in sample:
            masker = self.dataset(self.cfg.train_subset).masker
            run = {"pad_index": self.dictionary.pad(), "seed": self.cfg.seed}
            sample = draw_masks(sample, masker, update=update_num, rate=self._rate, law=self._law, **run)
            if self._law is not None and not ignore_grad:
                sample["observe"] = self._law.observe
        torch.manual_seed(sample["net_input"]["shape"]["noise_seed"])
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def optimizer_step(self, optimizer: Any, model: torch.nn.Module, update_num: int) -> None:
        """Step, then let the masks learn from the update."""
        super().optimizer_step(optimizer, model, update_num)
        if self._law is not None:
            self._law.end_update(update_num + 1)

    def get_checkpoint_dict(self) -> dict[str, Any]:
        """What fairseq stores with a checkpoint: the state of the masks, where they have one."""
        return {} if self._law is None else {type(self).__name__: {"mask_law": self._law.state()}}

    def set_checkpoint_dict(self, stored: dict[str, Any]) -> None:
        """What it gives back when the run goes on."""
        if self._law is not None and "mask_law" in stored:
            self._law.resume(stored["mask_law"])

    def _masking_config(self, **options: Any) -> MaskingConfig:
        return MaskingConfig(
            leave_unmasked_prob=self.cfg.leave_unmasked_prob,
            random_token_prob=self.cfg.random_token_prob,
            seed=self.cfg.seed,
            **options,
        )


def data_folders(data: str) -> list[Path]:
    """Return the folders of ``--data``, each of which must exist."""
    folders = [Path(path) for path in utils.split_paths(data)]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no such data folder: {folder}; make one with fairseq-masking prepare corpus")
    return folders
