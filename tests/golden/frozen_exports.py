"""Checkpoints as Hugging Face folders: what is in them, and what transformers computes with them."""

import ast
import json
import tarfile
from pathlib import Path
from typing import Any

import torch
from frozen_files import DATA, file_digest, one_thread, run_command_here, tensor_digest
from frozen_training import CHECKPOINTS, TUNED

__all__ = ["EXPORTED", "KEPT", "WITH_LOGITS", "export", "keep", "kept", "logits", "record"]

EXPORTED = (*CHECKPOINTS, *TUNED)
KEPT = "mlm_own_code"  # the folder that is committed, as an archive; its code lies beside its weights
WITH_LOGITS = {"mlm": False, KEPT: True}  # -> trust_remote_code
TOKENS = ((0, 17, 30, 199, 42, 2), (0, 9, 199, 2, 1, 1))


def export(name: str, output: Path) -> Path:
    """Export the checkpoint of that name; returns ``output``."""
    data = DATA / (name if name in TUNED else "corpus")
    checkpoint = DATA / "checkpoints" / f"{name}.pt"
    run_command_here("export", options=["--checkpoint", checkpoint, "--data", data, "--out", output])
    return output


def keep(folder: Path) -> None:
    """Make the archive of an exported folder anew."""
    with tarfile.open(DATA / "exports" / f"{KEPT}.tar.xz", "w:xz") as archive:
        archive.add(folder, arcname=KEPT)


def kept(output: Path) -> Path:
    """Unpack the archive into a folder; returns the exported one in it."""
    with tarfile.open(DATA / "exports" / f"{KEPT}.tar.xz") as archive:
        archive.extractall(output, filter="data")
    return output / KEPT


def record(folder: Path) -> dict[str, Any]:
    """Names of files; digests of those that are data; config.json itself; the classes of a modelling file."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("transformers_version", None)
    weights = load_file(folder / "model.safetensors")
    code = {}
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        code[path.name] = sorted(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    as_is = [path for path in folder.iterdir() if path.suffix in (".json", ".txt") and path.name != "config.json"]
    return {
        "names": sorted(path.name for path in folder.iterdir()),
        "config": config,
        "code": code,
        "files": {path.name: file_digest(path) for path in as_is},
        "tensors": {key: [str(tensor.dtype), list(tensor.shape)] for key, tensor in weights.items()},
        "weights": tensor_digest(weights),
    }


def logits(folder: Path, *, trust_remote_code: bool) -> list[list[list[float]]]:
    """Of a few columns of ``TOKENS`` by AutoModelForMaskedLM, padding left out."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=trust_remote_code).eval()
    tokens = torch.tensor(TOKENS)
    with one_thread(), torch.no_grad():
        out = model(input_ids=tokens, attention_mask=(tokens != 1).long()).logits
    return [row[: int((ids != 1).sum()), ::25].double().tolist() for row, ids in zip(out, tokens, strict=True)]
