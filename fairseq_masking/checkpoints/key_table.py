"""How other families of models name our encoder's parameters: one table, both directions.

``#`` is a layer's number or a head's name, ``*`` weight or bias. Beside the names, families differ in form: query,
key and value apart; rows of the position table that no token uses (RoBERTa counts positions from ``pad_index + 1``);
token types, of which our text only has the first, so that it can be added to the positions; tied weights stored twice.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq_masking.errors import UserError

__all__ = ["FAMILIES", "POSITIONS", "TOKENS", "Converted", "Family", "from_ours", "listed", "to_ours"]

TOKENS = "encoder.embed_tokens.weight"
POSITIONS = "encoder.embed_positions.weight"
_IN_PROJ = "encoder.layers.#.self_attn.in_proj.*"
SPAN_HEAD = "classification_heads.span.out_proj.*"  # of --task squad

_LEAVES = ("weight", "bias")
_WILD = re.compile(r"(?<=classification_heads\.)[^.]+(?=\.)|(?<=\.)\d+(?=\.)")  # what ``#`` stands for

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
    dropped: tuple[
        str, ...
    ] = ()  # keys with the prefix that have no place in our models; without it, any others have none
    older: Names = field(default_factory=dict)  # more names that are read but not written, as ``encoder``
    renamed: tuple[tuple[str, str], ...] = ()  # parts of keys that older files spell otherwise, and what to put there

    @property
    def rows(self) -> Iterator[tuple[str, list[str]]]:
        """Our names and theirs in full (query, key and value, or one), those that are written first."""
        for names, prefix in ((self.encoder, self.prefix), (self.older, self.prefix), (self.heads, "")):
            for ours, theirs in names.items():
                for leaf in _LEAVES:
                    parts = (theirs,) if isinstance(theirs, str) else theirs
                    yield ours.replace("*", leaf), [prefix + name.replace("*", leaf) for name in parts]


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
_SENTENCE_HEADS = ("classification_heads.#.dense.*", "classification_heads.#.out_proj.*")
_LM_HEAD = ("lm_head.dense.*", "lm_head.layer_norm.*", "lm_head.bias")
_ROBERTA_HEADS: Names = {
    **{name: name for name in _LM_HEAD},
    SPAN_HEAD: "qa_outputs.*",
    "classification_heads.#.dense.*": "classifier.dense.*",
    "classification_heads.#.out_proj.*": "classifier.out_proj.*",
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
            "classification_heads.#.dense.*": "bert.pooler.dense.*",
            "classification_heads.#.out_proj.*": "classifier.*",
        },
        token_types=("embeddings.token_type_embeddings.weight", 2),
        copies={
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
        dropped=("bert.embeddings.position_ids",),
        renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    ),
    "electra": Family(
        "ELECTRA",
        "electra.",
        {**_BERT_EMBEDDINGS, **_BERT_LAYERS},
        token_types=("embeddings.token_type_embeddings.weight", 2),
        # No heads: the discriminator's has a layer more than AMOS's; sentences are scored through a GELU.
        dropped=("electra.embeddings.position_ids",),
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
            "classification_heads.#.dense.*": "head.dense.*",
            "classification_heads.#.layer_norm.*": "head.norm.*",
            "classification_heads.#.out_proj.*": "classifier.*",
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
    """Return our state dict for one of another family; ``head`` is our name for one that has none there."""
    state = _modern_keys(state, family)
    token_types = family.token_types and family.prefix + family.token_types[0]
    # A key that two heads share, as ModernBERT's, is of the one whose output is there.
    outputs = {theirs[0] for ours, theirs in family.rows if ours.startswith("classification_heads.#.out_proj.")}
    classifies = any(_form(key)[0] in outputs for key in state)
    table: dict[str, tuple[str, int, int]] = {}
    for ours, theirs in sorted(family.rows, key=lambda row: row[0].startswith("classification_heads.") != classifies):
        for part, name in enumerate(theirs):
            table.setdefault(name, (ours, part, len(theirs)))
    without_place = {name.replace("*", leaf) for name in family.dropped for leaf in _LEAVES}
    found: dict[str, list[Any]] = {}
    origins: dict[str, str] = {}
    dropped, unknown = list[str](), list[str]()
    for key, value in state.items():
        form, wild = _form(key)
        if (of := family.copies.get(key)) is not None:
            if of not in state or not torch.equal(value, state[of]):
                raise UserError(f"{family.title} with {key} not tied to {of}: our heads share the token embedding")
        elif form in table:
            ours, part, parts = table[form]
            name = ours.replace("#", wild or head)
            found.setdefault(name, [None] * parts)[part] = value
            origins[name] = key
        elif key != token_types:  # outside of the encoder it is a head that no model here has
            is_unknown = key.startswith(family.prefix) and key not in without_place
            (unknown if is_unknown else dropped).append(key)
    if unknown:
        raise UserError(f"not parameters of {family.title} as this package knows it: {listed(unknown)}")
    if halves := [name for name, parts in found.items() if any(part is None for part in parts)]:
        raise UserError(f"{family.title} without one of query, key and value of {listed(halves)}")
    result = {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in found.items()}
    if POSITIONS in result:
        positions = result[POSITIONS][family.unused_positions :]
        if token_types in state:  # summed in fp32: half precision would round every position
            precise = torch.promote_types(positions.dtype, torch.float32)
            positions = positions.to(precise) + state[token_types][0].to(precise)
        result[POSITIONS] = positions
    # BERT's pooler is there whether or not it was ever trained; without scores behind it, it is no head.
    heads = [key for key in result if key.startswith("classification_heads.")]
    if not any(".out_proj." in key for key in heads):
        dropped += [origins[key] for key in heads]
        result = {key: value for key, value in result.items() if key not in heads}
    return Converted(result, dropped)


def from_ours(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Return another family's state dict for ours, with one classification head at most, if it has a place for all."""
    table = dict(reversed(list(family.rows)))  # of two names the one that is written
    result: dict[str, Tensor] = {}
    forms = {key: (key, "") if key in table else _form(key) for key in state}
    if unknown := [key for key, (form, _) in forms.items() if form not in table]:
        raise UserError(f"{family.title} has no place for {listed(unknown)}")
    for key, value in state.items():
        form, wild = forms[key]
        if key == POSITIONS:
            value = torch.cat([value.new_zeros(family.unused_positions, value.shape[1]), value])
        for name, part in zip(table[form], value.chunk(len(table[form])), strict=True):
            result[name.replace("#", wild)] = part
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


def _form(key: str) -> tuple[str, str]:
    """A key as the tables have it, and what stands in it for their ``#``."""
    found = _WILD.search(key)
    return (_WILD.sub("#", key), found[0]) if found else (key, "")


def _modern_keys(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Keys as the family spells them today, with the prefix that files of the bare encoder leave out."""
    for part, replacement in family.renamed:
        state = {re.sub(part, replacement, key): value for key, value in state.items()}
    prefix = "" if any(key.startswith(family.prefix) for key in state) else family.prefix
    return {prefix + key: value for key, value in state.items()}
