"""``--init-from``: a model starts from another checkpoint's encoder.

When a command starts, the encoder's shape is taken from the source and written into the configuration, which
is stored with every checkpoint: a resumed run finds it there, and neither it nor an evaluation needs the
source. The weights are copied where fairseq has looked for a checkpoint to resume from and found none.
"""

import logging
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY
from omegaconf import DictConfig, OmegaConf, open_dict

from fairseq_masking.checkpoints.key_table import TOKENS, listed
from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.checkpoints.sources import SHAPE_OPTIONS, Source, read_source
from fairseq_masking.compat.options import was_typed
from fairseq_masking.compat.patching import replaces
from fairseq_masking.compat.runs import warn_at_both_ends
from fairseq_masking.corpus.manifest import first_shard, load_tokenizer
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.hugging_face_files import tokens_of_symbols
from fairseq_masking.tokenizers.symbols import FILLER_PREFIX, SPECIAL_SYMBOLS

__all__ = ["initialize", "resolve_shape"]

logger = logging.getLogger(__name__)

_LAST = "checkpoint_last.pt"
_BY_SYMBOL = (TOKENS, "lm_head.bias")  # their rows are in the order of a dictionary
_read: dict[str, Source] = {}  # what was read for its shape, until its weights are taken


def resolve_shape(cfg: DictConfig) -> None:
    """Write the shape of ``model.init_from``, or of the checkpoint that is resumed, into the configuration."""
    model = OmegaConf.select(cfg, "model")  # commands that build none have no such section
    path = getattr(model, "init_from", None)
    if not path:
        return
    if cfg.checkpoint.finetune_from_model:
        raise UserError("--init-from and --finetune-from-model exclude each other: give one")
    if cfg.distributed_training.ddp_backend == "fully_sharded":
        raise UserError("--init-from with --ddp-backend fully_sharded: start with pytorch_ddp, then resume with it")
    _read.clear()
    save_dir, restored = cfg.checkpoint.save_dir, cfg.checkpoint.restore_file
    resumed = Path(save_dir, _LAST) if restored == _LAST else Path(restored)  # by fairseq's load_checkpoint
    if not resumed.is_file():
        _read[path] = read_source(path)
        shape, heads = _read[path].shape(), _read[path].heads()
    else:
        stored = read_checkpoint(resumed).options
        shape = {name: stored[name] for name in SHAPE_OPTIONS if stored.get(name) is not None}
        heads = {name: stored[name] for name in ("pooler_norm", "pooler_activation_fn", "pooling") if name in stored}
    _check_options(model, shape, str(resumed) if resumed.is_file() else f"--init-from {path}")
    shape.update({name: value for name, value in heads.items() if not _is_own(model, name)})
    task = OmegaConf.select(cfg, "task")
    with open_dict(model):
        model.update(shape)
    if hasattr(task, "max_positions"):  # sentence_prediction builds the model with its own
        task.max_positions = shape["max_positions"]


def initialize(model: Any, source: Source, task: Any) -> None:
    """Copy a source's encoder, and the heads that both sides have, into a model."""
    rows = _rows(task, source)
    known = torch.tensor([row is not None for row in rows])
    index = torch.tensor([row for row in rows if row is not None])
    own = model.state_dict()
    taken = {"encoder"}
    for head in ("lm_head", "detection_head"):  # of the same parameters, whose rows by symbol may be others
        here, there = (
            {key: of[key].shape for key in of if key.startswith(f"{head}.") and key not in _BY_SYMBOL}
            for of in (own, source.state)
        )
        taken |= {head} if here and here == there else set()
    with torch.no_grad():
        for key, value in source.state.items():
            if key in _BY_SYMBOL and key.split(".")[0] in taken:
                own[key][known] = value[index].to(own[key])
            elif key.split(".")[0] in taken:
                own[key].copy_(value)
    logger.info("%s taken from %s (%s)", ", ".join(sorted(taken)), source.path, source.title)
    told = []
    if left := [*source.dropped, *sorted({key.split(".")[0] for key in source.state} - taken)]:
        told.append(f"not taken from {source.path}: {listed(left)}")
    if fresh := sorted({key.split(".")[0] for key in own} - taken):
        told.append(f"{', '.join(fresh)} initialised at random: {source.path} has none that fits")
    if fresh := [symbol for symbol, row in zip(task.source_dictionary.symbols, rows, strict=True) if row is None]:
        lacked = f"{len(fresh)} symbols initialised at random, such as {fresh[0]}"
        told.append(f"{lacked}: {source.path} lacks them")
    if told:
        say = warn_at_both_ends if getattr(task, "pretrains", False) else logger.info  # fine-tuning means a new head
        say("; ".join(told))


def _rows(task: Any, source: Source) -> list[int | None]:
    """Rows of the source's embedding in the order of the task's dictionary, None for special symbols it lacks."""
    symbols = list(task.source_dictionary.symbols)
    if source.symbols is None:
        if len(symbols) != source.config.vocab_size:
            raise UserError(
                f"{source.path} has {source.config.vocab_size} embedding rows, the corpus's dictionary"
                f" {len(symbols)} symbols: prepare the corpus with the dict.txt it was trained with"
            )
        place = source.options.get("data", "the place of its data")
        logger.warning(
            f"nothing says which symbols the rows of {source.path} stand for (no dict.txt beside it, nor at {place}):"
            " they are taken in the order of this corpus's dictionary"
        )
        return list(range(len(symbols)))
    if source.from_hugging_face:
        symbols = tokens_of_symbols(symbols, load_tokenizer(first_shard(task.cfg.data)))
    rows = {symbol: row for row, symbol in enumerate(source.symbols) if symbol is not None}
    lacked = [symbol for symbol in symbols if symbol not in rows and symbol not in SPECIAL_SYMBOLS]
    if missing := [symbol for symbol in lacked if not symbol.startswith(FILLER_PREFIX)]:
        raise UserError(
            f"the corpus's dictionary has {len(missing)} of {len(symbols)} symbols that {source.path} lacks, such as"
            f" {missing[0]!r}: it was prepared with another tokeniser than this model's; fairseq-masking prepare"
            " corpus --tokenizer-from takes the model's own, or that of the data it was trained on"
        )
    if unused := len(rows.keys() - set(symbols)):
        logger.info("%d of %d symbols of %s are not in the corpus's dictionary", unused, len(rows), source.path)
    return [rows.get(symbol) for symbol in symbols]


def _check_options(model: Any, shape: Mapping[str, Any], source: str) -> None:
    """What contradicts the source was asked for, or comes with the arch: an error, or a word in the log."""
    given = {name: getattr(model, name, None) for name in shape}
    unlike = [name for name, value in shape.items() if given[name] is not None and str(given[name]) != str(value)]
    for name in unlike:
        if _is_own(model, name):
            raise UserError(
                f"--{name.replace('_', '-')} {given[name]} contradicts {source}, whose encoder has {shape[name]}:"
                " leave the option out"
            )
    if unlike:
        replaced = listed(f"{name} {shape[name]} for {given[name]}" for name in unlike)
        logger.info("the encoder has the shape of %s, not of its arch %s: %s", source, model._name, replaced)


def _is_own(model: Any, name: str) -> bool:
    """Whether an option was typed, or a recipe says it: it is not what it is where only ``--arch`` is given."""
    arch, values = str(getattr(model, "_name", "")), Namespace()
    ARCH_CONFIG_REGISTRY.get(arch, lambda _: None)(values)
    dataclass = MODEL_DATACLASS_REGISTRY[ARCH_MODEL_NAME_REGISTRY[arch]]
    default = {**{option.name: option.default for option in fields(dataclass)}, **vars(values)}.get(name)
    return was_typed("model", name) or str(getattr(model, name, None)) != str(default)


@replaces("fairseq.trainer:Trainer", "load_checkpoint")
def _initialize_fresh_runs(original: Callable[..., Any], self: Any, *args: Any, **options: Any) -> Any:
    extra_state = original(self, *args, **options)
    path = getattr(self.cfg.model, "init_from", None)
    if extra_state is None and path:
        initialize(self.get_model(), _read.pop(path), self.task)
    return extra_state
