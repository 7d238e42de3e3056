"""Continue an encoder on your own text with any method, and give it back to Hugging Face.

A chain of three commands, each printed as it is repeated by hand: prepare corpus into OUT/data, with the
encoder's tokeniser; fairseq-hydra-train into OUT/checkpoints, by the method's recipe; export to OUT/model. What
is finished is not done again, and a killed chain goes on.

Example:
  fairseq-masking continue --from FacebookAI/roberta-base --text my.txt --method fully_explored --out continued
"""

import argparse
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from fairseq_masking.cli.options import add_shared, at_least
from fairseq_masking.corpus.documents import DOCUMENT_BOUNDS
from fairseq_masking.errors import UserError

RECIPES = {  # of configs/pretrain
    "mlm": "mlm_base",
    "fully_explored": "fully_explored_base",
    "three_ml": "three_ml_base_self40",
    "amos": "amos_base",
    "map_net": "map_net_base",
}
_RECORD = "continue.json"
_ROWS, _AT_ONCE, _TOKENS, _PASSES, _WARMUP = 48, 24, 512, 3, 0.06


def add_options(parser: argparse.ArgumentParser) -> None:
    # fmt: off
    add = parser.add_argument
    text = {"nargs": "+", "type": Path, "metavar": "FILE"}
    add("--from", dest="source", required=True, metavar="MODEL",
        help="what --init-from takes: a folder, a name on the hub, or a checkpoint whose corpus is there")
    add("--text", required=True, **text, help="UTF-8 text, plain, .xz, .gz or .bz2")
    add("--valid", **text, help="text to validate on (default: a hundredth of --text)")
    add("--documents", choices=DOCUMENT_BOUNDS, default="line", help="what bounds them in the text (default: line)")
    add("--workers", type=at_least(1), default=1, metavar="N", help="processes to prepare the text with (default: 1)")
    add_shared(parser, "out", "folder to make, of data/, checkpoints/ and model/", metavar="DIR", required=True)
    add("--method", choices=tuple(RECIPES), default="mlm", help="to train with (default: mlm)")
    add("--updates", type=at_least(1), metavar="N", help=f"of the training (default: {_PASSES} passes over the text)")
    add("--lr", type=float, default=1e-4, metavar="LR",
        help=f"learning rate after {_WARMUP:.0%}% of the updates, falling to 0 from there (default: 1e-4)")
    add("--gpus", type=at_least(0), metavar="N", help="0: on the CPU (default: 1 where there is one)")
    add("--set", nargs="+", action="extend", dest="overrides", default=[], metavar="KEY=VALUE",
        help="overrides of the recipe, as task.mask_unit=span. An update has task.global_batch rows of"
        f" task.tokens_per_sample tokens (default: {_ROWS} of {_TOKENS}), dataset.batch_size at once ({_AT_ONCE})")
    # fmt: on


def run(args: argparse.Namespace) -> None:
    from fairseq_masking.checkpoints.loading import read_checkpoint
    from fairseq_masking.checkpoints.sources import read_source
    from fairseq_masking.corpus.manifest import read_manifest
    from fairseq_masking.files import configs_folder, held, read_json, write_json

    name, folder, out = RECIPES[args.method], configs_folder() / "pretrain", args.out.absolute()
    source = Path(args.source).absolute() if Path(args.source).exists() else args.source
    config = read_source(args.source).config  # what is not taken is said before the text is prepared
    of_corpus = read_checkpoint(source).data if Path(source).is_file() else None

    texts = ["--train", *args.text, *(["--valid", *args.valid] if args.valid else [])]
    places = ["--tokenizer-from", of_corpus or source, "--out", out / "data"]
    _run_verb("prepare", "corpus", *texts, "--documents", args.documents, "--workers", args.workers, *places)

    num_tokens = read_manifest(out / "data").counts["train"]["tokens"]
    settings = {"model.init_from": _value(source), **_settings(args, folder / f"{name}.yaml", config, num_tokens)}
    record, before = {"recipe": name, **settings}, read_json(out / _RECORD, optional=True)
    trained = before.pop("trained", False)
    if before and (changed := sorted(key for key in before.keys() | record if before.get(key) != record.get(key))):
        raise UserError(f"{out} was started with another {', '.join(changed)}: give another --out, or remove it")
    command = [_program("fairseq-hydra-train"), "--config-dir", folder, "--config-name", name]
    command += [f"{key}={value}" for key, value in settings.items()]
    command += [f"task.data={_value(out / 'data')}", f"checkpoint.save_dir={_value(out / 'checkpoints')}"]
    if _is_to_run(command, trained):
        write_json(out / _RECORD, record)
        with held(out / ".lock") as lock:  # the training holds it, too: it may outlive a chain that was killed
            status = subprocess.run(list(map(str, command)), pass_fds=(lock,), check=False).returncode
        if status:
            sys.exit(status if status > 0 else 128 - status)
        write_json(out / _RECORD, {**record, "trained": True})

    _run_verb("export", "--checkpoint", out / "checkpoints" / "checkpoint_last.pt", "--out", out / "model",
              done=(out / "model").exists())  # fmt: skip


def _settings(args: argparse.Namespace, recipe: Path, config: Any, num_tokens: int) -> dict[str, Any]:
    """Return what the recipe is told: the source's size, a batch and a schedule to continue with, --set's."""
    import torch
    from omegaconf import OmegaConf

    from fairseq_masking.methods.base.options import SIZES

    written = OmegaConf.load(recipe)
    arch = next(group["model"] for group in written.defaults if "model" in group).rpartition("_")[0]
    sizes = [size for size in SIZES if size.startswith("modern") == (config.position_encoding == "rotary")]
    size = min(sizes, key=lambda size: abs(SIZES[size].encoder_layers - config.num_layers))
    gpus = int(torch.cuda.is_available()) if args.gpus is None else args.gpus
    ranks = max(1, gpus)
    settings = {
        "model": f"{arch}_{size}",
        **({"common.cpu": "true", "common.bf16": "false"} if gpus == 0 else {}),
        "distributed_training.distributed_world_size": ranks,
        "task.tokens_per_sample": min(_TOKENS, config.max_positions),
        "dataset.batch_size": _AT_ONCE,
        "optimization.lr": [args.lr],
        **dict(override.partition("=")[::2] for override in args.overrides),
    }
    dotted = [f"{key.lstrip('+')}={value}" for key, value in settings.items() if "." in key]
    cfg = OmegaConf.merge(written, OmegaConf.from_dotlist(dotted))
    splits = cfg.task.get("mask_splits", 1)
    if "optimization.update_freq" in settings:
        rows = cfg.dataset.batch_size * cfg.optimization.update_freq[0] * ranks
    else:
        rows = math.ceil(_ROWS / ranks / splits) * ranks * splits
        rows = int(settings.setdefault("task.global_batch", rows))
    updates = math.ceil(_PASSES * num_tokens * splits / max(1, rows) / cfg.task.tokens_per_sample)
    updates = int(settings.get("optimization.max_update", args.updates or updates))
    schedule = {"optimization.max_update": updates, "lr_scheduler.warmup_updates": round(_WARMUP * updates)}
    intervals = ("dataset.validate_interval_updates", "checkpoint.save_interval_updates")
    return {**schedule, **dict.fromkeys(intervals, min(1000, math.ceil(updates / 10))), **settings}


def _run_verb(*words: object, done: bool = False) -> None:
    from fairseq_masking.cli.main import main

    arguments = list(map(str, words))
    if _is_to_run([_program("fairseq-masking"), *arguments], done) and (status := main(arguments)):
        sys.exit(status)


def _is_to_run(command: list[Any], done: bool) -> bool:
    print(f"{'# done before: ' if done else '$ '}{shlex.join(map(str, command))}", flush=True)
    return not done


def _value(path: str | Path) -> str:
    """Return a path as the value of one of Hydra's overrides."""
    from fairseq_masking.finetuning.tasks import quoted

    return str(path) if re.fullmatch(r"[\w./-]+", str(path)) else quoted(path)


def _program(name: str) -> str:
    return name if shutil.which(name) else str(Path(sys.executable).with_name(name))
