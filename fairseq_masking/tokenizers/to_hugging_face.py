"""Our tokenisers as a tokenizer.json, with the ids of our dictionary.

Written with Hugging Face ``tokenizers`` alone, so that any version of transformers reads it. Special symbols
that are written out in a text ("<s>") are special there, where ours takes them for text (but for <mask>).
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from fairseq_masking.errors import UserError
from fairseq_masking.files import write_json
from fairseq_masking.tokenizers import Gpt2Tokenizer, SentencePieceTokenizer, Tokenizer
from fairseq_masking.tokenizers.backend import BackendTokenizer, steps_of
from fairseq_masking.tokenizers.hugging_face_files import GENERIC_CLASS, ROLES, TEXT_STEPS, tokens_of_symbols
from fairseq_masking.tokenizers.normalization import TextNormalizer
from fairseq_masking.tokenizers.sentencepiece import model_proto
from fairseq_masking.tokenizers.symbols import BOS_SYMBOL, EOS_SYMBOL, MASK_SYMBOL, SPECIAL_SYMBOLS, UNK_SYMBOL

__all__ = ["write_tokenizer"]

_UNIGRAM, _BPE = 1, 2  # SentencePiece's numbers of its algorithms
_LAST_SIGMA = r"(?<=[\p{Lu}\p{Ll}\p{M}])Σ(?![\p{M}'’.:·]*[\p{Lu}\p{Ll}])"  # of a word


def write_tokenizer(
    folder: Path, tokenizer: Tokenizer, symbols: Sequence[str], normalizer: TextNormalizer, *, max_length: int
) -> None:
    """Write tokenizer.json and tokenizer_config.json for a dictionary's ``symbols``, <mask> among them.

    Of what the corpus's text went through, the ``normalizer``, only lower-casing can be written down.
    """
    names = {symbol: symbol for symbol in SPECIAL_SYMBOLS}
    ids = {token: index for index, token in enumerate(tokens_of_symbols(symbols, tokenizer))}
    if missing := [token for token in tokens_of_symbols(tokenizer.symbols, tokenizer) if token not in ids]:
        raise UserError(
            f"the dictionary lacks {len(missing)} symbols of its tokeniser, such as {missing[0]!r}: a"
            " tokenizer.json needs them all"
        )
    if isinstance(tokenizer, SentencePieceTokenizer):
        backend = _sentencepiece(tokenizer, ids)
    else:
        assert isinstance(tokenizer, BackendTokenizer)
        # Special tokens of a model's own tokenizer.json keep their names
        names.update({token: name for name, token in tokenizer.options.get("specials", {}).items()})
        ids = {names.get(token, token): index for token, index in ids.items()}
        backend = _renumbered(tokenizer, ids, names[UNK_SYMBOL])
    if isinstance(tokenizer, Gpt2Tokenizer):
        backend.normalizer = normalizers.Strip(left=False, right=True)
    if normalizer.lowercase:  # its Lowercase takes each character by itself, Python's lower() does not
        steps = [normalizers.Replace(Regex(_LAST_SIGMA), "ς"), normalizers.Lowercase()]
        backend.normalizer = normalizers.Sequence(steps + [backend.normalizer] * (backend.normalizer is not None))
    # White space before a <mask> belongs to what it hides.
    backend.add_special_tokens(
        [AddedToken(name, lstrip=symbol == MASK_SYMBOL, normalized=False) for symbol, name in names.items()]
    )
    begin, end = names[BOS_SYMBOL], names[EOS_SYMBOL]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} {end} $B {end}",
        special_tokens=[(name, ids[name]) for name in (begin, end)],
    )
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": GENERIC_CLASS,
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{role: names[symbol] for role, symbol in ROLES.items()},
        "bos_token": begin,
        "eos_token": end,
    }
    if told := normalizer.steps():
        config[TEXT_STEPS] = told
    write_json(folder / "tokenizer_config.json", config, indent=2)
    if isinstance(tokenizer, SentencePieceTokenizer):
        tokenizer.save(folder)  # only from the model itself does a corpus get the same pieces again


def _sentencepiece(tokenizer: SentencePieceTokenizer, ids: dict[str, int]) -> Any:
    """The pieces with their scores as ranks of merges (BPE) or as they are (unigram).

    Source: the algorithms of SentencePiece's bpe_model.cc and unigram_model.cc.
    """
    model = model_proto(tokenizer.files["sentencepiece.model"])
    spec, trainer = model.normalizer_spec, model.trainer_spec
    if not (spec.add_dummy_prefix and spec.remove_extra_whitespaces and spec.escape_whitespaces):
        raise UserError(
            "this SentencePiece model treats spaces otherwise than as usual (add_dummy_prefix,"
            " remove_extra_whitespaces, escape_whitespaces): no tokenizer.json does the same"
        )
    scores = {piece.piece: piece.score for piece in model.pieces if piece.piece in ids}
    if trainer.model_type == _BPE:
        core: Any = models.BPE(
            ids, _merges(scores), unk_token=UNK_SYMBOL, fuse_unk=True, byte_fallback=trainer.byte_fallback
        )
    elif trainer.model_type == _UNIGRAM:
        worst = min(scores.values())
        pieces = [(token, scores.get(token, worst)) for token in ids]
        core = models.Unigram(pieces, unk_id=ids[UNK_SYMBOL], byte_fallback=trainer.byte_fallback)
    else:
        raise UserError("only BPE and unigram models of SentencePiece can be written as tokenizer.json")
    # Of each stretch between two <mask>s: only that at the text's beginning gets a space in front.
    steps = [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=False, right=True)]
    if spec.precompiled_charsmap:
        steps.insert(0, normalizers.Precompiled(spec.precompiled_charsmap))
    if "nfkc" in spec.name:  # which Precompiled does cluster by cluster, and lets decomposed letters through
        steps.insert(0, normalizers.NFC())
    backend = Backend(core)
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    strip = decoders.Strip(content=" ", left=1, right=0)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return backend


def _renumbered(tokenizer: BackendTokenizer, ids: dict[str, int], unknown: str) -> Any:
    """The same with these ids for its tokens, and for what the dictionary has beside them."""
    values = deepcopy(tokenizer.values)
    model, added = values["model"], [token for token in values["added_tokens"] if token["content"] in ids]
    if isinstance(model["vocab"], list):  # Unigram: pairs of piece and score, the id is the place
        scores = dict(model["vocab"])
        model["vocab"] = [(token, scores.get(token, min(scores.values()))) for token in ids]
        model["unk_id"] = None if model["unk_id"] is None else ids[unknown]
    else:
        model["vocab"] = ids
        model["unk_token"] = model.get("unk_token") and unknown
    values["added_tokens"] = sorted(({**token, "id": ids[token["content"]]} for token in added), key=itemgetter("id"))
    values["post_processor"] = None
    for step in steps_of(values):  # the same, but for what goes on after a <mask>
        if step.get("prepend_scheme") == "always" and all(token["special"] for token in added):
            step["prepend_scheme"] = "first"
    backend = Backend.from_str(json.dumps(values))
    if wrong := [token for token, index in ids.items() if backend.token_to_id(token) != index]:
        raise UserError(f"{wrong[0]!r} of the tokeniser has no place of its own in the dictionary's order")
    return backend


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, best piece first."""
    ranked = sorted(scores, key=lambda piece: -scores[piece])
    return [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
