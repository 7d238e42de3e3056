"""A checkpoint of any known family as our encoder: shape, weights, and the order of the embedding's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq_masking.checkpoints.key_table import FAMILIES, POSITIONS, TOKENS, Converted, Family, listed, to_ours
from fairseq_masking.checkpoints.loading import check_finite, read_checkpoint, read_weights
from fairseq_masking.corpus.dictionary import load_dictionary
from fairseq_masking.corpus.manifest import DICTIONARY_FILE
from fairseq_masking.errors import UserError
from fairseq_masking.files import read_json
from fairseq_masking.modules import EncoderConfig, TransformerEncoder
from fairseq_masking.modules.config import ACTIVATIONS, KIND_OPTIONS
from fairseq_masking.tokenizers.hugging_face_files import find_source, hugging_face_symbols

__all__ = ["MODERN", "SHAPE_OPTIONS", "Source", "dictionary_symbols", "read_source"]

# Options of a model that a source decides -> fields of EncoderConfig.
SHAPE_OPTIONS = {
    "encoder_layers": "num_layers",
    "encoder_embed_dim": "embed_dim",
    "encoder_ffn_embed_dim": "ffn_dim",
    "encoder_attention_heads": "num_heads",
    "activation_fn": "activation",
    **{name: name for name in ("max_positions", "layer_norm_eps", "normalize_before", "relative_position")},
    **{name: name for name in ("relative_position_buckets", "relative_position_max_distance", *KIND_OPTIONS)},
}
_SECTION = "fairseq_masking"
# model_type -> the family that has its keys and computes the same
_KINDS = ("bert", "roberta", "roberta-prelayernorm", "electra", "mpnet", "modernbert", _SECTION)
_HUGGING_FACE = {kind: kind for kind in _KINDS}
_HUGGING_FACE |= dict.fromkeys(("xlm-roberta", "camembert", "data2vec-text"), "roberta")
# Fields of config.json -> the values with which our encoder computes the same, the first where it is absent.
_TAKEN = {
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "position_embedding_type": ("absolute", None),
    "relative_attention_num_buckets": (32,),  # transformers' MPNet has 32, whatever its config says
}
MODERN = {  # what ModernBERT is beside what its config tells
    "position_encoding": "rotary",
    "feed_forward": "glu",
    "norm": "layer_norm",
    "normalize_before": True,
    "skip_first_norm": True,
    "relative_position": "none",
}
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"  # ModernBERT's names
_CONFIG = "config.json"


@dataclass(frozen=True)
class Source:
    path: Path  # where it lies
    title: str  # what it is, for messages
    config: EncoderConfig  # the encoder's shape
    state: dict[str, Tensor]  # parameters in our names: the encoder, and heads where there are some
    # what each row of the embedding stands for, None for rows that our text never needs; None where nothing says it
    symbols: Sequence[str | None] | None
    from_hugging_face: bool  # symbols are texts of its tokeniser, with our special ones' names; else a dict.txt's
    options: Mapping[str, Any]  # of the model that it was, where known
    dropped: Sequence[str]  # its parameters that have no place in our models

    def shape(self) -> dict[str, Any]:
        """The model options that its shape decides."""
        shape = {option: getattr(self.config, field) for option, field in SHAPE_OPTIONS.items()}
        if self.config.relative_position == "none":
            del shape["relative_position_buckets"], shape["relative_position_max_distance"]
        return shape

    def heads(self) -> dict[str, Any]:
        """The options of classification heads where nothing else is asked for: ModernBERT's kind has its head."""
        if self.config.position_encoding != "rotary":
            return {}
        mean = self.options.get("classifier_pooling", self.options.get("pooling")) == "mean"
        kind = {"pooler_norm": True, "pooler_activation_fn": self.config.activation}
        return {**kind, "pooling": "mean" if mean else "first"}


def read_source(path: str | Path) -> Source:
    """Read a checkpoint of ours, of fairseq's RoBERTa or AMOS's release, or a Hugging Face folder."""
    place = find_source(str(path))
    source = _from_hugging_face(place) if (place / _CONFIG).is_file() else _from_checkpoint(place)
    with torch.device("meta"):  # the encoder that the shape describes, without memory for its weights
        encoder = TransformerEncoder(source.config).state_dict()
    wanted = {f"encoder.{key}": value.shape for key, value in encoder.items()}
    present = {key: value.shape for key, value in source.state.items() if key.startswith("encoder.")}
    if unlike := sorted(key for key in wanted.keys() | present.keys() if wanted.get(key) != present.get(key)):
        raise UserError(f"{place} is no whole {source.title}: missing, foreign or of another size: {listed(unlike)}")
    check_finite(source.state, str(place))
    # A model may have rows that no token of its tokeniser uses; a dict.txt names every row.
    rows, symbols = source.config.vocab_size, len(source.symbols or ())
    if symbols > rows or (symbols not in (0, rows) and not source.from_hugging_face):
        raise UserError(
            f"{place} has {rows} embedding rows, but {symbols} symbols stand in its"
            f" {'tokeniser' if source.from_hugging_face else 'dict.txt'}: put the right one beside it"
        )
    return source


def dictionary_symbols(folder: Path) -> list[str] | None:
    """Return the symbols of a folder's dict.txt by row, fairseq's four first; None where there is none."""
    path = folder / DICTIONARY_FILE
    return list(load_dictionary(path).symbols) if path.is_file() else None


def _from_hugging_face(folder: Path) -> Source:
    config = read_json(folder / _CONFIG)
    kind = config.get("model_type")
    if kind not in _HUGGING_FACE:
        raise UserError(
            f"{folder} has model_type {kind!r} in config.json, whose encoder is not ours: taken are"
            f" {', '.join(_HUGGING_FACE)}"
        )
    if "auto_map" in config and kind != _SECTION:
        raise UserError(f"{folder} brings its own code (auto_map in config.json), never run here: give a plain {kind}")
    family = FAMILIES[_HUGGING_FACE[kind]]
    if _HUGGING_FACE[kind].startswith("roberta"):  # transformers counts its positions from here
        family = replace(family, unused_positions=config.get("pad_token_id", 1) + 1)
    for field, taken in _TAKEN.items():
        if config.get(field, taken[0]) not in taken:
            raise UserError(f"{folder} has {field} {config[field]!r} in config.json: taken is {taken[0]!r} alone")
    weights = read_weights(folder)
    # Scores that no text as a whole has: of tokens or choices, which other models name alike.
    architectures, foreign = config.get("architectures") or [], list[str]()
    if architectures and not any(name.endswith("ForSequenceClassification") for name in architectures):
        foreign = [key for key in weights if key.startswith("classifier.")]
        foreign += [key for key in weights if foreign and key.startswith("head.")]  # ModernBERT's is before them
    state, dropped = _converted({key: weights[key] for key in weights if key not in foreign}, family, folder)
    dropped += foreign
    options = {
        "num_heads": config.get("num_attention_heads", 12),
        "activation": config.get("hidden_act", "gelu"),
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
        "relative_position": config.get("relative_position", "t5"),
        "relative_position_max_distance": config.get("relative_position_max_distance", 128),
    }
    if kind == "modernbert":
        options |= _modernbert(config, folder)
    encoder, symbols = _config(state, family, folder, options), hugging_face_symbols(folder)
    return Source(folder, family.title, encoder, state, symbols, True, config, dropped)


def _modernbert(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return ModernBERT's config in our terms, whether transformers 4 or 5 wrote it."""

    def pattern(every: int, number: int) -> list[str]:
        return [_LOCAL if layer % every else _GLOBAL for layer in range(number)]

    written = pattern(config.get("global_attn_every_n_layers", 3), config.get("num_hidden_layers", 22))
    types = config.get("layer_types") or written
    every = next((layer for layer, kind in enumerate(types) if layer and kind == _GLOBAL), len(types))
    rope = {_GLOBAL: {}, _LOCAL: {}, **(config.get("rope_parameters") or {})}
    theta = rope[_GLOBAL].get("rope_theta", config.get("global_rope_theta", 160_000.0))
    local_theta = rope[_LOCAL].get("rope_theta", config.get("local_rope_theta", 10_000.0)) or theta
    activation = config.get("hidden_activation", "gelu")
    unfit = {
        "layer_types": types != pattern(every, len(types)),
        "rope_parameters": any(values.get("rope_type", "default") != "default" for values in rope.values()),
        "rope_scaling": config.get("rope_scaling"),
        "classifier_activation": config.get("classifier_activation", "gelu") != activation,
    }
    if unlike := [name for name, is_unfit in unfit.items() if is_unfit]:
        raise UserError(
            f"{folder}: another {listed(unlike)} in config.json than our encoder has: taken are ModernBERTs whose"
            " first of every N layers attends globally, with rotary positions as they are and one activation for all"
        )
    window = {"attention_window": config.get("local_attention", 128), "global_attention_every": every}
    return {
        **MODERN,
        "activation": activation,
        "layer_norm_eps": config.get("norm_eps", 1e-5),
        "max_positions": config.get("max_position_embeddings", 8192),
        "rope_theta": float(theta),
        "rope_local_theta": float(local_theta),
        "no_attention_bias": not config.get("attention_bias", False),
        "no_feed_forward_bias": not config.get("mlp_bias", False),
        "no_norm_bias": not config.get("norm_bias", False),
        "no_head_bias": not config.get("classifier_bias", False),
        **(window if every > 1 else {}),
    }


def _from_checkpoint(path: Path) -> Source:
    if path.is_dir():
        raise UserError(f"{path} is a folder without config.json: give a Hugging Face folder, or a checkpoint's file")
    checkpoint = read_checkpoint(path)
    state, options = checkpoint.state.get("model", checkpoint.state), checkpoint.options
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is a PyTorch file, but no checkpoint of a model")
    folder = path.parent if (path.parent / DICTIONARY_FILE).is_file() else checkpoint.data or path.parent
    if symbols := dictionary_symbols(folder):
        checkpoint.check_trained_on(symbols, folder)
    if TOKENS in state:
        # What another model can use: not the head of a decoder, whose input is not the encoder's output.
        decodes = any(key.startswith("decoder.") for key in state)
        parts = ("encoder.", "detection_head.", "classification_heads.", *(() if decodes else ("lm_head.",)))
        family, dropped = FAMILIES[_SECTION], list[str]()
        state = {key: value for key, value in state.items() if key.startswith(parts)}
    else:
        names = ("relative_attention_bias", "self_attn.in_proj.", "binary_head")
        released = any(name in key for key in state for name in names)
        family = FAMILIES["amos_release" if released else "fairseq"]
        state, dropped = _converted(state, family, path)
    relative = state.get("encoder.relative_position.weight")
    told = {field: options[name] for name, field in SHAPE_OPTIONS.items() if name in options}
    usual = {
        "num_heads": relative.shape[1] if relative is not None else 0,
        "relative_position": "amos",
        "relative_position_max_distance": options.get("max_rel_pos", 128),
    }
    config = _config(state, family, path, {**usual, **told})
    return Source(path, family.title, config, state, symbols, False, options, dropped)


def _converted(state: Mapping[str, Tensor], family: Family, path: Path) -> Converted:
    projection = next((value for key, value in state.items() if key.endswith("embeddings_project.weight")), None)
    if projection is not None:
        wide, narrow = projection.shape
        raise UserError(
            f"{path} has embeddings {narrow} wide, projected to its layers' {wide} (embedding_size in config.json, as"
            " ELECTRA-small has it): our encoder's are as wide as its layers"
        )
    try:
        return to_ours(state, family)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _config(state: Mapping[str, Tensor], family: Family, path: Path, told: Mapping[str, Any]) -> EncoderConfig:
    """Read the shape off the tensors, which do not tell all: the rest is told."""
    learned = told.get("position_encoding", "learned") == "learned"
    activation, num_heads = told.get("activation", "gelu"), told["num_heads"]
    needed = (TOKENS, POSITIONS if learned else TOKENS, "encoder.layers.0.fc2.weight")
    if lacking := [key for key in needed if key not in state]:
        raise UserError(f"{path} has no encoder of {family.title}'s form: it lacks {listed(lacking)}")
    tokens, positions, inner = (state[key] for key in needed)
    if activation not in ACTIVATIONS:
        raise UserError(f"{path} computes with {activation!r}: our encoder knows {', '.join(ACTIVATIONS)}")
    if positions.shape[1] != tokens.shape[1]:
        raise UserError(f"{path} has embeddings {tokens.shape[1]} wide, not as wide as its layers: ours are")
    if not isinstance(num_heads, int) or num_heads < 1:
        raise UserError(f"{path} does not tell its number of attention heads: no bare state dict will do")
    relative = state.get("encoder.relative_position.weight")
    read = {
        "vocab_size": tokens.shape[0],
        "num_layers": len({key.split(".")[2] for key in state if key.startswith("encoder.layers.")}),
        "embed_dim": tokens.shape[1],
        "ffn_dim": inner.shape[1],
        "normalize_before": "encoder.layer_norm.weight" in state,
        "relative_position_buckets": 32 if relative is None else relative.shape[0],
        **({"relative_position": "none"} if relative is None else {}),
        **({"max_positions": positions.shape[0]} if learned else {}),
    }
    return EncoderConfig(pad_index=1, **{**told, **read})
