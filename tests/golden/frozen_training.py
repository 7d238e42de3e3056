"""Trainings as ``fairseq-train`` runs them, in this process: losses to the bit, and the weights' digest."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import fairseq.tasks
import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq_cli import train
from frozen_files import DATA, one_thread, tensor_digest
from torch import Tensor

import fairseq_masking.models as models

__all__ = [
    "CHECKPOINTS", "RUNS", "TUNED", "arguments", "fillings", "first_steps", "hub_of", "loaded",
    "resumed_steps", "steps", "structure", "validation_loss",
]  # fmt: skip

SMALL = """--encoder-layers 2 --encoder-embed-dim 32 --encoder-ffn-embed-dim 64 --encoder-attention-heads 4
    --dropout 0.1 --attention-dropout 0.1 --max-positions 32"""
SMALLEST = """--encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2
    --dropout 0.1 --attention-dropout 0.1 --max-positions 32"""
PRETRAINING = """--task masked_pretraining --lr 2e-3 --clip-norm 1 --weight-decay 0.01
    --tokens-per-sample 32 --batch-size 8"""
TUNING = """--optimizer fused_adamw --no-decay-bias-and-norm --weight-decay 0.01 --lr 2e-3
    --lr-scheduler linear --warmup-ratio 0.2 --batch-size 4 --required-batch-size-multiple 1
    --layer-lr-decay 0.8"""
FIXED = """--cpu --seed 5 --num-workers 0 --log-interval 1000 --log-format none --disable-validation
    --no-epoch-checkpoints"""

ADAM = """--optimizer adam --adam-betas (0.9,0.98) --lr-scheduler polynomial_decay --warmup-updates 4
    --total-num-update 30"""
FUSED = "--optimizer fused_adamw --no-decay-bias-and-norm --lr-scheduler linear --warmup-ratio 0.1"
SPLIT = "--criterion fully_explored_mlm"
PROPOSAL = """--proposal-layers 1 --proposal-embed-dim 16 --proposal-ffn-embed-dim 32
    --proposal-attention-heads 2"""
MAP_NET = f"--arch map_net_tiny --criterion map_net {PROPOSAL} --explore-start 0.7 --explore-end 0.3"
THREE_ML = "--arch three_ml_tiny --criterion mlm --mask-prob 0.4 --decoder-layers 1 --decoder-attention"
AMOS = "--arch amos_tiny --criterion amos"
RAGGED = "--sample-break-mode eos"

# Name -> options beside the common ones.
RUNS = {
    "mlm": "--arch mlm_tiny --criterion mlm",
    "mlm_ragged_pre_ln_t5": f"--arch mlm_tiny --criterion mlm {RAGGED} {FUSED} --normalize-before"
    " --relative-position t5 --activation-fn relu --mask-prob 0.2 --update-freq 2",
    "mlm_span_max_tokens": "--arch mlm_tiny --criterion mlm --mask-unit span --sample-break-mode complete"
    " --relative-position amos --max-tokens 200",
    "fully_explored": f"--arch mlm_tiny {SPLIT} --mask-splits 4 --mask-unit whole_word",
    "fully_explored_ragged": f"--arch mlm_tiny {SPLIT} --mask-splits 4 {RAGGED} {FUSED}",
    "map_net": f"{MAP_NET} --explore-updates 20",
    "map_net_exact_ragged": f"{MAP_NET} --explore-updates 10 {RAGGED} --importance-weight exact"
    " --proposal-learn-from proposed --proposal-loss-weight 2 --encoder-loss-weight 1",
    "map_net_batch": f"{MAP_NET} --explore-updates 10 --explore-unit batch --mask-unit whole_word {FUSED}",
    "three_ml_self": f"{THREE_ML} self --mask-unit span",
    "three_ml_cross": f"{THREE_ML} cross {RAGGED}",
    "three_ml_self_pre_ln": f"{THREE_ML} self --normalize-before --decoder-embed-dim 32 {RAGGED} {FUSED}",
    "three_ml_fully_explored": f"{THREE_ML} cross {SPLIT} --mask-prob 0.25 --mask-splits 2 --mask-unit whole_word",
    "amos": f"{AMOS} --generator-layers 1,2 --leave-unmasked-prob 0 --random-token-prob 0",
    "amos_separate": f"{AMOS} --separate-generators 1,2,2 --mask-unit whole_word --random-token-prob 0",
    "amos_random_layer_ragged": f"{AMOS} --generator-layers 1,2,3 --mixture random_layer {RAGGED} {FUSED}",
    "amos_fixed": f"{AMOS} --generator-layers 1,2 --mixture fixed --mixture-weights 0.3,0.7"
    " --adversarial-mlm-scale 0.1 --no-generator-stop-grad --gumbel-temperature 0.5",
}
# One a method is kept, with its optimizer: name -> options. "mlm_own_code" is exported with a modelling file.
CHECKPOINTS = {
    "mlm": "--arch mlm_tiny --criterion mlm",
    "mlm_own_code": f"--arch mlm_tiny --criterion mlm --normalize-before --relative-position t5 {FUSED}",
    "fully_explored": f"--arch mlm_tiny {SPLIT} --mask-splits 4 {FUSED}",
    "map_net": f"{MAP_NET} --explore-updates 4 {FUSED}",
    "three_ml_self": f"{THREE_ML} self {FUSED}",
    "three_ml_cross": f"{THREE_ML} cross --decoder-embed-dim 16 {FUSED}",
    "amos": f"{AMOS} --generator-layers 1,2 {FUSED}",
}
# Fine-tuned from the checkpoint that stands first: its encoder, its options.
TUNED = {
    "sentences": (
        "amos",
        "--arch amos_tiny --task sentence_prediction --criterion scored_sentence_prediction --num-classes 2"
        " --init-token 0 --separator-token 2 --max-positions 32",
    ),
    "questions": (
        "mlm",
        "--arch mlm_tiny --task squad --criterion squad --tokens-per-sample 32 --question-tokens 16 --doc-stride 8",
    ),
}
TEXT = "Perento senpe <mask> lindra shakati, it's said."
NUM_STEPS, NUM_KEPT, NUM_RESUMED = 20, 3, 2
_CLASSES = {
    "map_net": models.MapNetModel,
    "three_ml_self": models.ThreeMLModel,
    "three_ml_cross": models.ThreeMLModel,
    "amos": models.AmosModel,
}


class Steps(NamedTuple):
    """Summed loss and its ``sample_size`` of each forward pass, and the weights at the end."""

    losses: list[float]
    sizes: list[float]
    weights: dict[str, Tensor]

    def frozen(self) -> dict[str, Any]:
        """As it is compared."""
        losses = [loss.hex() for loss in self.losses]
        return {"losses": losses, "sizes": self.sizes, "weights": tensor_digest(self.weights)}


def steps(arguments: list[str]) -> Steps:
    """Run ``fairseq-train`` with these arguments, the data's path relative to ``DATA``."""
    parsed = options.parse_args_and_arch(options.get_training_parser(), arguments)
    cfg = convert_namespace_to_omegaconf(parsed)
    losses, sizes, trained = [], [], []
    original = fairseq.tasks.setup_task

    def setup_task(*args: Any, **kwargs: Any) -> Any:
        task = original(*args, **kwargs)
        train_step = task.train_step

        def recorded(*, sample: Any, model: torch.nn.Module, **rest: Any) -> Any:
            loss, size, logs = train_step(sample=sample, model=model, **rest)
            losses.append(float(loss.detach()))
            sizes.append(float(size))
            trained[:] = [model]
            return loss, size, logs

        task.train_step = recorded
        return task

    with (
        one_thread(),
        contextlib.chdir(DATA),
        mock.patch.object(sys, "argv", ["fairseq-train", *arguments]),
        mock.patch.object(fairseq.tasks, "setup_task", setup_task),
    ):
        distributed_utils.call_main(cfg, train.main)
    return Steps(losses, sizes, trained[0].state_dict())


def arguments(name: str, save_dir: Path | str, *more: str) -> list[str]:
    """Of a run of 20 steps."""
    common = f"corpus {PRETRAINING} {SMALL} {FIXED} --max-update {NUM_STEPS}"
    return [*f"{common} {_with_optimizer(RUNS[name])} --save-dir {save_dir}".split(), *more]


def first_steps(name: str, save_dir: Path) -> Steps:
    """Train what is kept as a checkpoint, or is tuned, to checkpoint_last.pt."""
    return steps([*_kept(name, NUM_KEPT), "--save-dir", str(save_dir)])


def resumed_steps(name: str, save_dir: Path) -> Steps:
    """Go on from checkpoint_last.pt."""
    return steps([*_kept(name, NUM_KEPT + NUM_RESUMED), "--save-dir", str(save_dir)])


def _kept(name: str, num_steps: int) -> list[str]:
    fixed = f"{FIXED} --max-update {num_steps}"
    if name not in TUNED:
        return f"corpus {PRETRAINING} {SMALLEST} {fixed} {_with_optimizer(CHECKPOINTS[name])}".split()
    source, more = TUNED[name]
    return f"{name} {more} {TUNING} {fixed} --max-epoch 3 --init-from checkpoints/{source}.pt".split()


def _with_optimizer(run: str) -> str:
    return run if FUSED in run else f"{run} {ADAM}"


def validation_loss(model: torch.nn.Module, cfg: Any) -> float:
    """The summed loss of the validation split, in the evaluation's order, by the criterion of ``cfg``."""
    task = fairseq.tasks.setup_task(cfg.task)
    task.build_model(cfg.model, from_checkpoint=True)  # some tasks and criterions learn from it
    criterion = task.build_criterion(cfg.criterion).eval()
    task.load_dataset("valid", combine=False)
    batches = task.get_batch_iterator(task.dataset("valid"), max_sentences=8, max_positions=32)
    total = 0.0
    with one_thread(), torch.no_grad():
        for sample in batches.next_epoch_itr(shuffle=False):
            total += float(criterion(model.eval(), sample)[0])
    return total


@contextlib.contextmanager
def loaded(path: Path, data: str) -> Iterator[tuple[torch.nn.Module, Any]]:
    """A checkpoint by fairseq's own loader, within ``DATA``."""
    with contextlib.chdir(DATA):
        found, cfg, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides={"data": data})
        yield found[0], cfg


def hub_of(name: str, path: Path) -> Any:
    """A pre-trained checkpoint by ``Model.from_pretrained``."""
    return _CLASSES.get(name, models.MLMModel).from_pretrained(path, data=DATA / "corpus")


def fillings(name: str, path: Path) -> list[tuple[str, str, float]]:
    """What the checkpoint puts into a text's gap, with the probabilities."""
    with one_thread():
        found = hub_of(name, path).fill_mask(TEXT, topk=3)
    return [(filling.text, filling.token, filling.probability) for filling in found]


def structure(path: Path) -> dict[str, Any]:
    """What stands in a checkpoint: the weights' names, types and shapes, and how the rest is laid out."""
    state = torch.load(path, weights_only=False)
    return {
        "keys": sorted(state),
        "model": {name: [str(t.dtype), list(t.shape)] for name, t in state["model"].items()},
        "optimizer": _layout(state["last_optimizer_state"]),
        "extra_state": sorted(state["extra_state"]),
    }


def _layout(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape)]
    if isinstance(value, dict):
        return {str(key): _layout(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_layout(part) for part in value]
    return value if isinstance(value, int | str | bool | type(None)) else repr(value)
