"""How other families of models name our encoder's parameters: one table, both directions.

``#`` is a layer's number, ``@`` a head's name, ``*`` weight or bias. Beside the names, families differ in
form: query, key and value apart; rows of the position table that no token uses (RoBERTa counts positions from
``pad_index + 1``); token types, of which our text only has the first, so that it can be added to the
positions; tied weights that are stored twice.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_masking.errors import UserError

__all__ = ["FAMILIES", "POSITIONS", "TOKENS", "Converted", "Family", "from_ours", "listed", "to_ours"]

TOKENS = "encoder.embed_tokens.weight"
POSITIONS = "encoder.embed_positions.weight"
_IN_PROJ = "encoder.layers.#.self_attn.in_proj.*"
SPAN_HEAD = "classification_heads.span.out_proj.*"  # of --task squad

Names = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class Family:
    """What one family of models makes of our parameters."""

    title: str  # its name in messages
    prefix: str  # of the encoder's keys; files without any head leave it out
    encoder: Names  # our names -> theirs, without the prefix
    heads: Names = field(default_factory=dict)  # the same for heads
    unused_positions: int = 0  # rows of the position table before the first position
    # their table of token types, without the prefix, and its rows in what we write
    token_types: tuple[str, int] | None = None
    copies: Mapping[str, str] = field(default_factory=dict)  # keys that repeat another one
    writes_copies: bool = False  # whether its own loader asks for them
    dropped: tuple[str, ...] = ()  # keys that have no place in our models
    older: Names = field(default_factory=dict)  # more names that are read but not written, as ``encoder``
    renamed: tuple[tuple[str, str], ...] = ()  # parts of keys that older files spell otherwise, and what to put there

    @property
    def rows(self) -> Iterator[tuple[str, list[str]]]:
        """Our names and theirs in full (query, key and value, or one), those that are written first."""
        for names, prefix in ((self.encoder, self.prefix), (self.older, self.prefix), (self.heads, "")):
            for ours, theirs in names.items():
                yield ours, [prefix + name for name in ((theirs,) if isinstance(theirs, str) else theirs)]


class Converted(NamedTuple):
    """A state dict in our names, and the keys of the other one that have no place in it."""

    state: dict[str, Tensor]
    dropped: list[str]


_BERT_EMBEDDINGS: Names = {
    TOKENS: "embeddings.word_embeddings.weight",
    POSITIONS: "embeddings.position_embeddings.weight",
    "encoder.layernorm_embedding.*": "embeddings.LayerNorm.*",
}
_BERT_LAYERS: Names = {
    _IN_PROJ: tuple(f"encoder.layer.#.attention.self.{part}.*" for part in ("query", "key", "value")),
    "encoder.layers.#.self_attn.out_proj.*": "encoder.layer.#.attention.output.dense.*",
    "encoder.layers.#.self_attn_layer_norm.*": "encoder.layer.#.attention.output.LayerNorm.*",
    "encoder.layers.#.fc1.*": "encoder.layer.#.intermediate.dense.*",
    "encoder.layers.#.fc2.*": "encoder.layer.#.output.dense.*",
    "encoder.layers.#.final_layer_norm.*": "encoder.layer.#.output.LayerNorm.*",
}
_PRE_LN_LAYERS: Names = {
    **_BERT_LAYERS,
    "encoder.layers.#.self_attn_layer_norm.*": "encoder.layer.#.attention.LayerNorm.*",
    "encoder.layers.#.final_layer_norm.*": "encoder.layer.#.intermediate.LayerNorm.*",
    "encoder.layer_norm.*": "LayerNorm.*",
}
_MPNET_LAYERS: Names = {
    **_BERT_LAYERS,
    _IN_PROJ: tuple(f"encoder.layer.#.attention.attn.{part}.*" for part in "qkv"),
    "encoder.layers.#.self_attn.out_proj.*": "encoder.layer.#.attention.attn.o.*",
    "encoder.layers.#.self_attn_layer_norm.*": "encoder.layer.#.attention.LayerNorm.*",
    "encoder.relative_position.weight": "encoder.relative_attention_bias.weight",
}
_FAIRSEQ_PARTS = ("self_attn.in_proj", "self_attn.out_proj", "self_attn_layer_norm", "fc1", "fc2")
_FAIRSEQ_LAYERS: Names = {  # our names are fairseq's
    TOKENS: "embed_tokens.weight",
    POSITIONS: "embed_positions.weight",
    "encoder.layernorm_embedding.*": "layernorm_embedding.*",
    **{f"encoder.layers.#.{part}.*": f"layers.#.{part}.*" for part in (*_FAIRSEQ_PARTS, "final_layer_norm")},
}
_SENTENCE_HEADS = ("classification_heads.@.dense.*", "classification_heads.@.out_proj.*")
_LM_HEAD = ("lm_head.dense.*", "lm_head.layer_norm.*", "lm_head.bias")
_ROBERTA_HEADS: Names = {
    **{name: name for name in _LM_HEAD},
    SPAN_HEAD: "qa_outputs.*",
    "classification_heads.@.dense.*": "classifier.dense.*",
    "classification_heads.@.out_proj.*": "classifier.out_proj.*",
}


def _roberta(title: str, prefix: str, layers: Names, token_types: bool = True) -> Family:
    return Family(
        title,
        f"{prefix}.",
        {**_BERT_EMBEDDINGS, **layers},
        _ROBERTA_HEADS,
        unused_positions=2,
        token_types=("embeddings.token_type_embeddings.weight", 1) if token_types else None,
        copies={
            "lm_head.decoder.weight": f"{prefix}.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        renamed=((r"^data2vec_text\.", f"{prefix}."),),
        dropped=(f"{prefix}.embeddings.position_ids", f"{prefix}.pooler.dense.*"),
    )


FAMILIES: dict[str, Family] = {
    "fairseq": Family(
        "fairseq's RoBERTa",
        "encoder.sentence_encoder.",
        {
            **_FAIRSEQ_LAYERS,
            _IN_PROJ: tuple(f"layers.#.self_attn.{part}_proj.*" for part in "qkv"),
            "encoder.layer_norm.*": "layer_norm.*",
        },
        {**{name: f"encoder.{name}" for name in _LM_HEAD}, **{name: name for name in _SENTENCE_HEADS}},
        unused_positions=2,
        copies={"encoder.lm_head.weight": "encoder.sentence_encoder.embed_tokens.weight"},
        writes_copies=True,
        dropped=("encoder.sentence_encoder.version",),
        older={"encoder.layernorm_embedding.*": "emb_layer_norm.*", _IN_PROJ: "layers.#.self_attn.in_proj_*"},
        renamed=((r"^decoder\.", "encoder."),),
    ),
    "amos_release": Family(
        "a released AMOS",
        "encoder.sentence_encoder.",
        {
            **_FAIRSEQ_LAYERS,
            "encoder.layernorm_embedding.*": "emb_layer_norm.*",
            "encoder.relative_position.weight": "relative_attention_bias.weight",
        },
        {"detection_head.*": "encoder.binary_head.out_proj.*", **{name: name for name in _SENTENCE_HEADS}},
    ),
    "bert": Family(
        "BERT",
        "bert.",
        {**_BERT_EMBEDDINGS, **_BERT_LAYERS},
        {
            "lm_head.dense.*": "cls.predictions.transform.dense.*",
            "lm_head.layer_norm.*": "cls.predictions.transform.LayerNorm.*",
            "lm_head.bias": "cls.predictions.bias",
            SPAN_HEAD: "qa_outputs.*",
            "classification_heads.@.dense.*": "bert.pooler.dense.*",
            "classification_heads.@.out_proj.*": "classifier.*",
        },
        token_types=("embeddings.token_type_embeddings.weight", 2),
        copies={
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
        dropped=("bert.embeddings.position_ids", "cls.seq_relationship.*"),
        renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    ),
    "electra": Family(
        "ELECTRA",
        "electra.",
        {**_BERT_EMBEDDINGS, **_BERT_LAYERS},
        token_types=("embeddings.token_type_embeddings.weight", 2),
        # The discriminator's head has a layer more than AMOS's; sentences are scored through a GELU.
        dropped=(
            "electra.embeddings.position_ids",
            "discriminator_predictions.dense.*",
            "discriminator_predictions.dense_prediction.*",
            "classifier.dense.*",
            "classifier.out_proj.*",
        ),
    ),
    "roberta": _roberta("RoBERTa", "roberta", _BERT_LAYERS),
    "roberta-prelayernorm": _roberta("RoBERTa-PreLayerNorm", "roberta_prelayernorm", _PRE_LN_LAYERS),
    "mpnet": _roberta("MPNet", "mpnet", _MPNET_LAYERS, token_types=False),
    "modernbert": Family(
        "ModernBERT",
        "model.",
        {
            TOKENS: "embeddings.tok_embeddings.weight",
            "encoder.layernorm_embedding.*": "embeddings.norm.*",
            _IN_PROJ: "layers.#.attn.Wqkv.*",
            "encoder.layers.#.self_attn.out_proj.*": "layers.#.attn.Wo.*",
            "encoder.layers.#.self_attn_layer_norm.*": "layers.#.attn_norm.*",
            "encoder.layers.#.fc1.*": "layers.#.mlp.Wi.*",
            "encoder.layers.#.fc2.*": "layers.#.mlp.Wo.*",
            "encoder.layers.#.final_layer_norm.*": "layers.#.mlp_norm.*",
            "encoder.layer_norm.*": "final_norm.*",
        },
        {
            "lm_head.dense.*": "head.dense.*",
            "lm_head.layer_norm.*": "head.norm.*",
            "lm_head.bias": "decoder.bias",
            "classification_heads.@.dense.*": "head.dense.*",
            "classification_heads.@.layer_norm.*": "head.norm.*",
            "classification_heads.@.out_proj.*": "classifier.*",
        },
        copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    ),
    "fairseq_masking": Family(
        "fairseq_masking",
        "encoder.",
        {
            **_FAIRSEQ_LAYERS,
            "encoder.layer_norm.*": "layer_norm.*",
            "encoder.relative_position.weight": "relative_position.weight",
        },
        {**_ROBERTA_HEADS, "detection_head.*": "detection_head.*"},
    ),
}


def to_ours(state: Mapping[str, Tensor], family: Family, *, head: str = "sentence_classification_head") -> Converted:
    """Return our state dict for one of another family.

    Args:
        head: our name for a classification head that has none of its own there.

    Raises:
        UserError: keys of the encoder that the table does not name, parts of a projection missing, copies that differ.
    """
    state = _modern_keys(state, family)
    token_types = family.token_types and family.prefix + family.token_types[0]
    parts: dict[str, dict[int, Tensor]] = {}
    sizes: dict[str, int] = {}
    origins: dict[str, str] = {}
    dropped: list[str] = []
    unknown: list[str] = []
    # A key that two heads share, as ModernBERT's, is of the one whose output is there.
    outputs = [theirs[0] for ours, theirs in family.rows if ours == "classification_heads.@.out_proj.*"]
    classifies = any(_match(name, key) is not None for name in outputs for key in state)
    rows = sorted(family.rows, key=lambda row: row[0].startswith("classification_heads.") != classifies)
    for key, value in state.items():
        if key in family.copies:
            _check_copy(key, family.copies[key], state, family)
        elif any(_match(name, key) is not None for name in family.dropped):
            dropped.append(key)
        elif key != token_types:
            named = ((ours, theirs, part) for ours, theirs in rows for part in range(len(theirs)))
            for ours, theirs, part in named:
                if (wildcards := _match(theirs[part], key)) is not None:
                    name = _fill(ours, {"@": head, **wildcards})
                    parts.setdefault(name, {})[part] = value
                    sizes[name] = len(theirs)
                    origins[name] = key
                    break
            else:  # outside of the encoder it is a head that no model here has
                (unknown if key.startswith(family.prefix) else dropped).append(key)
    if unknown:
        raise UserError(f"not parameters of {family.title} as this package knows it: {listed(unknown)}")
    if halves := [name for name, found in parts.items() if len(found) != sizes[name]]:
        raise UserError(f"{family.title} without one of query, key and value of {listed(halves)}")
    result = {
        name: torch.cat([found[part] for part in range(len(found))]) if len(found) > 1 else found[0]
        for name, found in parts.items()
    }
    if POSITIONS in result:
        positions = result[POSITIONS][family.unused_positions :]
        if token_types in state:  # summed in fp32: half precision would round every position
            precise = torch.promote_types(positions.dtype, torch.float32)
            positions = positions.to(precise) + state[token_types][0].to(precise)
        result[POSITIONS] = positions
    # BERT's pooler is there whether or not it was ever trained; without scores behind it, it is no head.
    if not any(key.startswith("classification_heads.") and ".out_proj." in key for key in result):
        lone = [key for key in result if key.startswith("classification_heads.")]
        dropped += [origins[key] for key in lone]
        result = {key: value for key, value in result.items() if key not in lone}
    return Converted(result, dropped)


def from_ours(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Return another family's state dict for ours, with one classification head at most.

    Raises:
        UserError: parameters that the family has no place for, such as a relative position table in RoBERTa.
    """
    result: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        if key == POSITIONS:
            value = torch.cat([value.new_zeros(family.unused_positions, value.shape[1]), value])
        for ours, theirs in family.rows:
            if (wildcards := _match(ours, key)) is not None:
                for name, part in zip(theirs, value.chunk(len(theirs)), strict=True):
                    result[_fill(name, wildcards)] = part
                break
        else:
            unknown.append(key)
    if unknown:
        raise UserError(f"{family.title} has no place for {listed(unknown)}")
    if family.token_types is not None:
        name, rows = family.token_types
        result[family.prefix + name] = state[TOKENS].new_zeros(rows, state[TOKENS].shape[1])
    if family.writes_copies:
        result.update({copy: result[of] for copy, of in family.copies.items() if "lm_head.bias" in state})
    return result


def listed(keys: Iterable[str]) -> str:
    """Keys as a line of text, the first eight of many."""
    keys = list(keys)
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")


@cache
def _pattern(name: str) -> re.Pattern[str]:
    text = re.escape(name).replace(r"\#", r"(?P<number>\d+)").replace(r"\*", "(?P<leaf>weight|bias)")
    return re.compile(text.replace("@", r"(?P<head>[^.]+)"))


def _match(name: str, key: str) -> dict[str, str] | None:
    """What a key has in place of a name's wildcards; None where it is none of that name."""
    found = _pattern(name).fullmatch(key)
    signs = {"number": "#", "leaf": "*", "head": "@"}
    return found and {signs[group]: text for group, text in found.groupdict().items()}


def _fill(name: str, wildcards: Mapping[str, str]) -> str:
    for sign, text in wildcards.items():
        name = name.replace(sign, text)
    return name


def _modern_keys(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Keys as the family spells them today, with the prefix that files of the bare encoder leave out."""
    result = {}
    for key, value in state.items():
        for part, replacement in family.renamed:
            key = re.sub(part, replacement, key)
        result[key] = value
    if any(key.startswith(family.prefix) for key in result):
        return result
    return {family.prefix + key: value for key, value in result.items()}


def _check_copy(copy: str, of: str, state: Mapping[str, Tensor], family: Family) -> None:
    if of not in state or not torch.equal(state[copy], state[of]):
        raise UserError(f"{family.title} with {copy} that is not tied to {of}: our heads share the token embedding")
