"""What a checkpoint is, read off the file and its folder: nothing is trained, nothing computed.

Its method, shape, data and tokeniser, the options that differ from the defaults, how far it has come and how it
validated, and what it can be used for. A checkpoint of fairseq's RoBERTa, and a Hugging Face folder, have a shape.

Example:
  fairseq-masking inspect --checkpoint checkpoints/mine/checkpoint_best.pt
"""

import argparse
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from fairseq_masking.cli.options import add_shared
from fairseq_masking.errors import UserError

_POINTS = 8  # of the validation curve
_OF_THE_PLACE = ("data", "save_dir", "user_dir", "restore_file", "log_file", "tensorboard_logdir")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_shared(parser, "checkpoint", "to look at; or a Hugging Face folder")


def run(args: argparse.Namespace) -> None:
    from fairseq_masking.checkpoints.loading import read_checkpoint
    from fairseq_masking.checkpoints.sources import read_source

    source = read_source(args.checkpoint)
    checkpoint = None if source.from_hugging_face else read_checkpoint(args.checkpoint)
    trained = checkpoint is not None and isinstance(checkpoint.state.get("cfg"), dict)
    lines = [("checkpoint", f"{source.path}, {source.title}"), *_shape(source)]
    if trained:
        cfg = checkpoint.cfg
        method = [("method", f"--criterion {cfg.criterion._name} --arch {cfg.model._name} --task {cfg.task._name}")]
        if "mask_prob" in cfg.task:
            splits = f", {cfg.task.mask_splits} disjoint masks of a sequence" if cfg.task.mask_splits > 1 else ""
            method += [("masks", f"{cfg.task.mask_prob:.0%} of a sequence, {cfg.task.mask_unit}s{splits}")]
        lines = [lines[0], *method, *lines[1:], *_data(checkpoint), *_progress(checkpoint)]
        lines += [("differs", told) for told in _differing(checkpoint.cfg) or ["nothing"]]
    last = ""
    for name, text in [*lines, *_uses(source, checkpoint if trained else None)]:
        print(f"{name if name != last else '':<12}{text}")
        last = name


def _shape(source: Any) -> Iterator[tuple[str, str]]:
    from fairseq_masking.modules.config import KIND_OPTIONS, EncoderKind

    config, state = source.config, source.state
    size = sum(value.numel() for value in state.values())
    kind = "pre-LN" if config.normalize_before else "post-LN"
    yield "encoder", f"{config.num_layers} layers, {config.embed_dim} wide, {config.num_heads} heads, {kind}"
    yield "", f"{config.vocab_size:,} symbols, {config.max_positions} positions, relative: {config.relative_position}"
    values = {name: getattr(config, name) for name in KIND_OPTIONS}
    if today := [f"{name} {value}" for name, value in values.items() if value != getattr(EncoderKind, name)]:
        yield "", ", ".join(today)
    heads = sorted({key.split(".")[0] for key in state} - {"encoder"})
    yield "parameters", f"{size:,} in the encoder{''.join(f', {head}' for head in heads)}"
    if source.dropped:
        yield "", f"not taken: {', '.join(source.dropped)}"


def _data(checkpoint: Any) -> Iterator[tuple[str, str]]:
    from fairseq_masking.corpus.manifest import read_manifest

    folder = checkpoint.data
    yield "data", f"{folder}" + ("" if folder and folder.is_dir() else " (no longer there: give --data to the verbs)")
    manifest = read_manifest(folder) if folder and folder.is_dir() else None
    if manifest is not None:
        yield "tokeniser", f"{manifest.tokenizer['kind']}, {manifest.tokenizer['symbols']:,} symbols"
        if train := manifest.counts.get("train"):
            yield "", ", ".join(f"{count:,} {name}" for name, count in train.items())


def _progress(checkpoint: Any) -> Iterator[tuple[str, str]]:
    from fairseq_masking.figures.training_log import named_log, read_training_log

    extra, wanted = checkpoint.state.get("extra_state") or {}, checkpoint.cfg.optimization.max_update
    epoch = extra.get("train_iterator", {}).get("epoch", "?")
    yield "updates", f"{checkpoint.num_updates:,}" + (f" of {wanted:,}" if wanted else "") + f", epoch {epoch}"
    metric = checkpoint.cfg.checkpoint.best_checkpoint_metric
    yield "validation", f"{metric} {extra.get('val_loss')}, best {extra.get('best')}"
    with suppress(UserError):
        _, log = named_log(f"run={checkpoint.path.parent}")
        points = list(zip(*read_training_log(log).curve("loss"), strict=True))
        shown = points[:: -max(1, -(-len(points) // _POINTS))][::-1]
        yield "", "loss by update: " + ", ".join(f"{update:,}: {value:g}" for update, value in shown)


def _differing(cfg: Any) -> list[str]:
    """Options, as Hydra names them, whose values are not those of the same task, arch, criterion and the like."""
    from fairseq import options

    groups = ("task", "criterion", "optimizer", "lr_scheduler")
    words = [word for group in groups for word in (f"--{group.replace('_', '-')}", cfg[group]._name)]
    words = [str(cfg.task.data), "--arch", cfg.model._name, *words]
    usual = vars(options.parse_args_and_arch(options.get_training_parser(), words))

    def plain(value: Any) -> str:
        """As both of fairseq's parsers have it: the one keeps the text of a tuple, and 0 where the other has 0.0."""
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        return str(value).translate(str.maketrans("", "", "()[] '"))

    found: dict[str, tuple[str, Any]] = {}  # of fairseq's sections the last ones repeat options of the first ones
    for section in ("common", "dataset", "distributed_training", "optimization", "checkpoint", "model", *groups):
        for key, value in (cfg[section] or {}).items():
            found.setdefault(key, (section, value))
    return [
        f"{section}.{key} {value}"
        for key, (section, value) in found.items()
        if key in usual and key not in _OF_THE_PLACE and plain(value) != plain(usual[key])
    ]


def _uses(source: Any, checkpoint: Any) -> Iterator[tuple[str, str]]:
    from fairseq_masking.checkpoints.hugging_face import export_form

    place, state = f"--checkpoint {source.path}", source.state
    if checkpoint is not None:
        try:
            form = export_form(source)
            yield "use", f"export {place}: {form.architecture}{' (trust_remote_code)' if form.remote_code else ''}"
        except UserError as error:
            yield "no export", str(error)
        if "lm_head.bias" in state:
            yield "use", "fill_mask of its model's from_pretrained"
        if any(key.startswith("classification_heads.") for key in state):
            yield "use", f"predict {place}: labels and scores"
        else:
            yield "use", f"finetune {place}: labelled tasks"
        if "last_optimizer_state" in checkpoint.state:
            yield "use", f"go on training: --restore-file {source.path}"
    yield "use", f"start another training: --init-from {source.path}"
