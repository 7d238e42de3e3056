"""Files of others, read without running their code: safetensors, PyTorch files of tensors, JSON."""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from fairseq_masking.compat.checkpoints import load_tensors
from fairseq_masking.errors import UserError

__all__ = ["find_source", "is_hugging_face", "read_json", "read_weights"]

_CONFIG = "config.json"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "pytorch_model*.bin"]
_EXTRA = "pip install 'fairseq-masking[hf]'"


def find_source(path: str) -> Path:
    """Return the local file or folder, or the folder that a model of the hub was downloaded to.

    Raises:
        UserError: there is neither.
    """
    if Path(path).exists():
        return Path(path)
    if not _HUB_NAME.fullmatch(path):
        raise UserError(f"no such checkpoint or model folder: {path}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"{path}: no such folder; to download models: {_EXTRA}") from None
    try:
        return Path(snapshot_download(path, allow_patterns=_HUB_FILES))
    except Exception as error:  # its own errors, those of HTTP and of sockets
        raise UserError(
            f"{path}: no such folder, and the hub does not give it ({_one_line(error)}): give a local folder"
        ) from error


def is_hugging_face(path: Path) -> bool:
    """Whether it is a folder of transformers' form."""
    return path.is_dir() and (path / _CONFIG).is_file()


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file; an optional file that is not there is empty.

    Raises:
        UserError: missing, no JSON, or no object.
    """
    if optional and not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing, unreadable or no JSON ({_one_line(error)})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object")
    return values


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a Hugging Face folder: safetensors, or else PyTorch files without code.

    Raises:
        UserError: there are none, or they are corrupt, or would run code.
    """
    for name, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", _read_pytorch)):
        if (folder / name).is_file():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            places = read_json(index).get("weight_map")
            shards = sorted({str(shard) for shard in places.values()}) if isinstance(places, dict) else []
            if not shards or any(Path(shard).name != shard for shard in shards):
                raise UserError(f"{index} names no files of this folder")
            return {key: value for shard in shards for key, value in read(folder / shard).items()}
    raise UserError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path}: to read it: {_EXTRA}") from None
    try:
        return load_file(path)
    except Exception as error:  # its own SafetensorError is an Exception; a missing shard an OSError
        raise UserError(
            f"{path} is missing, cut short or no safetensors file ({_one_line(error)})"
        ) from error


def _read_pytorch(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing")
    state = load_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is a PyTorch file, but no state dict (names of parameters to tensors)")
    return state


def _one_line(error: BaseException) -> str:
    return (str(error).split("\n")[0] or type(error).__name__).strip()[:200]
