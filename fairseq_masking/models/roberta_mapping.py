"""fairseq's RoBERTa and our encoder name the same parameters differently: one table, both directions.

Two tensors also differ in form: RoBERTa keeps query, key and value apart, and its position table starts
with two rows that no token uses (fairseq counts positions from ``pad_index + 1``).
"""

import torch
from torch import Tensor

__all__ = ["from_roberta", "to_roberta"]

# RoBERTa's prefix on the left, ours on the right; the first that fits is taken.
_PREFIXES = (
    ("encoder.sentence_encoder.", "encoder."),
    ("encoder.lm_head.", "lm_head."),
    ("classification_heads.", "classification_heads."),
)
_POSITIONS = "encoder.embed_positions.weight"
_TIED = "encoder.lm_head.weight"  # RoBERTa lists the tied embedding a second time
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_UNUSED_POSITIONS = 2


def from_roberta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our state dict for fairseq's ``roberta`` one.

    Raises:
        KeyError: keys that no row of the table names.
    """
    result: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        if key == _TIED or key.endswith(".version"):
            continue
        name = _rename(key, 0, 1)
        if name is None:
            unknown.append(key)
        elif ".q_proj." in name:
            parts = [state[key.replace("q_proj", projection)] for projection in _PROJECTIONS]
            result[name.replace("q_proj", "in_proj")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            result[name] = value[_UNUSED_POSITIONS:] if name == _POSITIONS else value
    if unknown:
        raise KeyError(f"not parameters of RoBERTa: {', '.join(unknown)}")
    return result


def to_roberta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return fairseq's ``roberta`` state dict for ours (plain encoder, head and classification heads).

    Raises:
        KeyError: keys that RoBERTa has no place for, such as a relative position table.
    """
    result: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        name = None if "relative_position" in key else _rename(key, 1, 0)
        if name is None:
            unknown.append(key)
        elif ".in_proj." in name:
            for projection, part in zip(_PROJECTIONS, value.chunk(3), strict=True):
                result[name.replace("in_proj", projection)] = part
        elif key == _POSITIONS:
            result[name] = torch.cat([value.new_zeros(_UNUSED_POSITIONS, value.shape[1]), value])
        else:
            result[name] = value
    if "lm_head.bias" in state:
        result[_TIED] = state["encoder.embed_tokens.weight"]
    if unknown:
        raise KeyError(f"RoBERTa has no place for: {', '.join(unknown)}")
    return result


def _rename(key: str, source: int, target: int) -> str | None:
    for prefixes in _PREFIXES:
        if key.startswith(prefixes[source]):
            return prefixes[target] + key[len(prefixes[source]) :]
    return None
