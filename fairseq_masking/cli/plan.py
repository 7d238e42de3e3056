"""Check a pre-training before it runs: its recipe, data, devices, batch, memory and time. Nothing is trained.

Memory is an estimate: weights, gradients and Adam's state by the precision, and the activations of Transformer
layers without their attention weights, 34 bytes a token, layer and unit of width in 16 bits (2205.05198, Eq. 2).

Example:
  fairseq-masking plan --config mlm_tiny task.data=.quickstart/data
"""

import argparse
from typing import Any

from fairseq_masking.cli.options import add_recipe, recipe_of


def add_options(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)


def run(args: argparse.Namespace) -> None:
    import torch
    from fairseq import tasks

    from fairseq_masking.compat.distributed import runs_on_cpu
    from fairseq_masking.compat.launch import prepare_start
    from fairseq_masking.compat.recipes import composed, hardware_of

    recipe = recipe_of(args)
    cfg = composed(recipe.parent, recipe.stem, args.overrides)
    prepare_start(cfg)
    task = tasks.setup_task(cfg.task)
    with torch.device("meta"):
        model = task.build_model(cfg.model)
    ranks, accumulated = cfg.distributed_training.distributed_world_size, cfg.optimization.update_freq[-1]
    length, dataset = cfg.task.tokens_per_sample, cfg.dataset
    valid = [] if dataset.disable_validation else dataset.valid_subset.split(",")
    for split in (dataset.train_subset, *valid):
        task.load_dataset(split, epoch=1, combine=split == dataset.train_subset)
    sizes = {split: len(task.dataset(split)) for split in (dataset.train_subset, *valid)}
    limits = {"max_tokens": dataset.max_tokens, "max_sentences": dataset.batch_size, "num_shards": ranks}
    train = task.dataset(dataset.train_subset)
    task.get_batch_iterator(train, **limits, max_positions=task.max_positions())  # says what cannot be batched
    rows = dataset.batch_size or dataset.max_tokens // length
    # fp32: weights, gradients, two moments; in 16 bits weights and gradients once more.
    state = 20 if cfg.common.bf16 or cfg.common.fp16 else 16
    state *= sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parts = {"weights, gradients, Adam": state, "activations": _activation_bytes(cfg, model, rows)}
    device = "CPU" if runs_on_cpu(cfg) else f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    update = rows * accumulated * ranks
    epochs = update // train.masker.num_splits * cfg.optimization.max_update / len(train)
    lines = {
        "model": f"{cfg.model._name}, {sum(parameter.numel() for parameter in model.parameters()):,} parameters",
        "data": ", ".join(f"{split} {number:,} sequences of {length} tokens" for split, number in sizes.items()),
        "device": device if cfg.common.cpu or device != "CPU" else "CPU: no GPU is here, where the recipe wants one",
        "update": f"{update:,} rows ({rows} x {accumulated} batches x {ranks} processes), {update * length:,} tokens",
        "length": f"{cfg.optimization.max_update:,} updates, {epochs:.3g} epochs",
        "memory": " + ".join(f"{size / 2**30:.3g} GiB {name}" for name, size in parts.items()) + " a process, about",
        "hours": hardware_of(recipe) or "the recipe does not say",
    }
    print("\n".join(f"{name:<8}{text}" for name, text in lines.items()))


def _activation_bytes(cfg: Any, model: Any, rows: int) -> int:
    """Networks beside the encoder count as the layers that have as many parameters (12 a squared unit of width)."""
    width = cfg.model.encoder_embed_dim
    inner = sum(parameter.numel() for name, parameter in model.named_parameters() if "embed" not in name)
    layers = 2 if cfg.model.get("checkpoint_activations") else inner / (12 * width**2)
    half = cfg.common.bf16 or cfg.common.fp16 or cfg.common.amp
    return int((34 if half else 68) * rows * cfg.task.tokens_per_sample * width * layers)
