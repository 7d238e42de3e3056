"""A checkpoint of ours as a Hugging Face folder: weights, config, tokeniser.

What transformers has is written as that, to be loaded with no code of ours: post-LN as RoBERTa, pre-LN as
RoBERTa-PreLayerNorm, T5's relative positions as MPNet, the modern archs as ModernBERT. Any other encoder of BERT's
kind, and AMOS's discriminator with its head, gets ``modeling_fairseq_masking.py`` beside its weights.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq_masking.checkpoints.key_table import FAMILIES, from_ours, listed
from fairseq_masking.checkpoints.loading import digest_of_weights, read_checkpoint
from fairseq_masking.checkpoints.sources import MODERN, Source, dictionary_symbols, read_source
from fairseq_masking.corpus.dictionary import class_names
from fairseq_masking.corpus.manifest import first_shard, load_normalizer, load_tokenizer
from fairseq_masking.corpus.workspace import workspace
from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import hash_file, write_json
from fairseq_masking.modules.config import KIND_OPTIONS, EncoderKind
from fairseq_masking.tokenizers.hugging_face_files import EXTRA, check_exported
from fairseq_masking.tokenizers.to_hugging_face import write_tokenizer

__all__ = ["Exported", "export_checkpoint", "export_form", "load_with_transformers"]

logger = logging.getLogger(__name__)

_CLASSES = {
    "roberta": "Roberta",
    "roberta-prelayernorm": "RobertaPreLayerNorm",
    "mpnet": "MPNet",
    "modernbert": "ModernBert",
    "fairseq_masking": "FairseqMasking",
}
_BERTS = ("hidden_act", "layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob")  # otherwise there
_SCORES = "ForSequenceClassification"
_OUTPUT = re.compile(r"classification_heads\.[^.]+\.out_proj\.bias")
_MODELING = Path(__file__).with_name("modeling_fairseq_masking.py")
_AUTO_CLASSES = {
    "AutoConfig": "Config",
    "AutoModel": "Model",
    **{f"AutoModel{head}": head for head in ("ForMaskedLM", "ForMultipleChoice", "ForPreTraining")},
    **{f"AutoModel{head}": head for head in ("ForQuestionAnswering", _SCORES, "ForTokenClassification")},
}


class Exported(NamedTuple):
    """What was written: transformers' class for it, and whether it needs ``trust_remote_code``."""

    architecture: str
    remote_code: bool


def export_checkpoint(
    checkpoint: str | Path, output: str | Path, *, data: str | Path | None = None, head: str | None = None
) -> Exported:
    """Write a Hugging Face folder of a checkpoint of any method, pre-trained or fine-tuned.

    ``data``: what it was trained on, for its tokeniser (default: as stored in it); ``head``: which one to take along.
    """
    output = Path(output).resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is not empty: give another --out, or remove it first")
    source = read_source(checkpoint)
    if source.from_hugging_face or source.title != FAMILIES["fairseq_masking"].title:
        raise UserError(f"{checkpoint} is {source.title}, no checkpoint of fairseq_masking's models")
    source = replace(source, state=_with_one_head(source.state, head))
    kind, state = _form(source)
    if left := sorted(source.state.keys() - state.keys()):
        logger.warning("%s: %s stay behind: %s has no place for them", checkpoint, listed(left), FAMILIES[kind].title)
    source = replace(source, state=state)
    folder = first_shard(str(data or source.options.get("data")))
    with workspace(output) as partial:
        write_json(partial / "config.json", _config(kind, source, folder), indent=2)
        _write_tokenizer(source, folder, partial)
        if kind == "fairseq_masking":
            shutil.copyfile(_MODELING, partial / _MODELING.name)
        _write_weights(from_ours(source.state, FAMILIES[kind]), partial / "model.safetensors")
    return export_form(source)


def export_form(source: Source) -> Exported:
    """Return what ``export_checkpoint`` would write of one of ours; a UserError where no model is the same."""
    kind, state = _form(source)
    return Exported(_CLASSES[kind] + _suffix(state), kind == "fairseq_masking")


def load_with_transformers(folder: Path, auto_class: str, what: str) -> tuple[Any, Any, list[str]]:
    """Return tokeniser, model (fp32, on the CPU) and the names of its weights that a folder lacks.

    A folder that brings code of its own is not taken; ``what`` the model is stands in the error.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(f"{folder}: to read it: {EXTRA}") from None
    check_exported(Path(folder))
    transformers.logging.set_verbosity_error()  # its table of weights, heads that are left out
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        kind = getattr(transformers, auto_class)
        model, report = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: transformers has no {what} of it ({first_line(error)})") from error
    return tokenizer, model.eval(), sorted(report["missing_keys"])


def _with_one_head(state: Mapping[str, Tensor], head: str | None) -> dict[str, Tensor]:
    heads = sorted({key.split(".")[1] for key in state if key.startswith("classification_heads.")})
    if head is not None and head not in heads:
        raise UserError(f"--head {head}: the checkpoint has {', '.join(heads) or 'no classification heads'}")
    if head is None and len(heads) > 1:
        raise UserError(f"the checkpoint has several heads: choose one of --head {', '.join(heads)}")
    others = tuple(f"classification_heads.{name}." for name in heads if name != (head or heads[0]))
    return {key: value for key, value in state.items() if not key.startswith(others)}


def _form(source: Source) -> tuple[str, dict[str, Tensor]]:
    """The family of transformers that computes the same, ours where there is none, and what it has a place for."""
    config, options, state = source.config, source.options, source.state
    modern = any(getattr(config, name) != getattr(EncoderKind, name) for name in KIND_OPTIONS)
    scores, pooling = _suffix(state) == _SCORES, str(options.get("pooling", "first"))
    present = {**vars(config), "pooling": pooling, "pooler_norm": options.get("pooler_norm", False)}
    wanted: dict[str, Any] = {**MODERN} if modern else {}
    if scores:
        wanted |= {"pooler_norm": True} if modern else {"pooler_norm": False, "pooling": "first"}
    unlike = [f"{name}={present[name]}" for name, value in wanted.items() if present[name] != value]
    unlike += ["the head of --task squad"] if modern and _suffix(state) == "ForQuestionAnswering" else []
    if unlike:
        raise UserError(
            f"{source.path} is none of transformers' models: {'ModernBERT' if modern else 'BERT'} has no place for"
            f" {listed(unlike)}; it fine-tunes, and --init-from takes it"
        )
    if modern:  # it detects nothing
        return "modernbert", {key: value for key, value in state.items() if not key.startswith("detection_head.")}
    usual = config.activation == "gelu" and "detection_head.weight" not in state
    if not usual or (scores and options.get("pooler_activation_fn", "tanh") != "tanh"):
        return "fairseq_masking", state
    if config.relative_position == "none":
        return ("roberta-prelayernorm" if config.normalize_before else "roberta"), state
    buckets = (config.relative_position_buckets, config.relative_position_max_distance)
    as_mpnet = config.relative_position == "t5" and buckets == (32, 128) and not config.normalize_before
    return ("mpnet" if as_mpnet else "fairseq_masking"), state


def _config(kind: str, source: Source, data: Path) -> dict[str, Any]:
    encoder, options, state = source.config, source.options, source.state
    config: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": encoder.vocab_size,
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.ffn_dim,
        "hidden_act": encoder.activation,
        "hidden_dropout_prob": options.get("dropout", 0.1),
        "attention_probs_dropout_prob": options.get("attention_dropout", 0.1),
        "max_position_embeddings": encoder.max_positions + FAMILIES[kind].unused_positions,
        "layer_norm_eps": encoder.layer_norm_eps,
        "initializer_range": 0.02,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "classifier_dropout": options.get("pooler_dropout", 0.0),
        "tie_word_embeddings": True,
        "dtype": str(next(iter(state.values())).dtype).removeprefix("torch."),
    }
    if FAMILIES[kind].token_types is not None:
        config["type_vocab_size"] = 1
    if kind == "mpnet":
        config["relative_attention_num_buckets"] = encoder.relative_position_buckets
    if kind == "fairseq_masking":
        config.update(
            activation_dropout=options.get("activation_dropout", 0.0),
            normalize_before=encoder.normalize_before,
            relative_position=encoder.relative_position,
            relative_position_buckets=encoder.relative_position_buckets,
            relative_position_max_distance=encoder.relative_position_max_distance,
            classifier_activation=options.get("pooler_activation_fn", "tanh"),
            auto_map={name: f"{_MODELING.stem}.{_CLASSES[kind]}{suffix}" for name, suffix in _AUTO_CLASSES.items()},
        )
    suffix = _suffix(state)
    if kind == "modernbert":
        config = {name: value for name, value in config.items() if name not in _BERTS} | _modernbert(source)
    if suffix == _SCORES:
        number = len(next(value for key, value in state.items() if _OUTPUT.fullmatch(key)))
        names = list(class_names(data))[:number]
        if len(names) < number or number == 1:
            names = [f"LABEL_{index}" for index in range(number)]
        config["id2label"] = dict(enumerate(names))
        config["label2id"] = {name: index for index, name in enumerate(names)}
        config["problem_type"] = "regression" if number == 1 else "single_label_classification"
    return {"architectures": [_CLASSES[kind] + suffix], **config}


def _modernbert(source: Source) -> dict[str, Any]:
    """What ModernBERT's config calls otherwise; the names of transformers 4, which 5 reads, too."""
    encoder, options = source.config, source.options
    scores = _suffix(source.state) == _SCORES
    return {
        "hidden_activation": encoder.activation,
        "norm_eps": encoder.layer_norm_eps,
        "embedding_dropout": options.get("dropout", 0.0),
        "mlp_dropout": options.get("activation_dropout", 0.0),
        "attention_dropout": options.get("attention_dropout", 0.0),
        "global_attn_every_n_layers": encoder.global_attention_every if encoder.attention_window else 1,
        "local_attention": encoder.attention_window,
        "global_rope_theta": encoder.rope_theta,
        "local_rope_theta": encoder.rope_local_theta,
        "attention_bias": not encoder.no_attention_bias,
        "mlp_bias": not encoder.no_feed_forward_bias,
        "norm_bias": not encoder.no_norm_bias,
        "classifier_bias": not encoder.no_head_bias,
        "classifier_activation": str(options["pooler_activation_fn"]) if scores else encoder.activation,
        "classifier_pooling": "mean" if str(options.get("pooling")) == "mean" else "cls",
        "cls_token_id": 0,
        "sep_token_id": 2,
    }


def _suffix(state: Mapping[str, Tensor]) -> str:
    if "classification_heads.span.out_proj.bias" in state:
        return "ForQuestionAnswering"
    if any(_OUTPUT.fullmatch(key) for key in state):
        return _SCORES
    if "detection_head.weight" in state:
        return "ForPreTraining"
    return "ForMaskedLM" if "lm_head.bias" in state else "Model"


def _write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise UserError(f"to write safetensors: {EXTRA}") from None
    written = {key: value.clone().contiguous() for key, value in state.items()}
    files = json.dumps({file.name: hash_file(file) for file in sorted(path.parent.glob("[!.]*"))})
    save_file(written, path, {"format": "pt", "files": files, "sha256": digest_of_weights(written, files)})
    path.chmod((path.parent / "config.json").stat().st_mode)  # not its owner's alone


def _write_tokenizer(source: Source, data: Path, output: Path) -> None:
    if not data.is_dir():
        raise UserError(f"no such data folder: {data}; give the one it was trained on as --data, for its tokeniser")
    symbols = dictionary_symbols(data) or dictionary_symbols(data / "input0") or []
    if len(symbols) != (rows := source.config.vocab_size):
        found = f"a dict.txt of {len(symbols)} symbols" if symbols else "no dict.txt"
        raise UserError(f"{data} has {found}, the checkpoint {rows} rows: give the data it was trained on as --data")
    read_checkpoint(source.path).check_trained_on(symbols, data)
    normalizer = load_normalizer(data)
    write_tokenizer(output, load_tokenizer(data), symbols, normalizer, max_length=source.config.max_positions)
    done = ("lowercase", "moses_lang")  # the rest of the steps on a text no tokenizer.json does
    if left_out := [f"--{step.replace('_', '-')}" for step in normalizer.steps() if step not in done]:
        logger.warning(
            f"{data} was prepared with {' and '.join(left_out)}, which no tokenizer.json does: AutoTokenizer's ids of"
            f" raw text are not those of the training; give it what load_normalizer({str(data)!r}) of"
            " fairseq_masking.corpus.manifest makes of the text"
        )
