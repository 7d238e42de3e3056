"""Raw text to the data folder that fairseq-train takes: normalised, split, tokenised, binarised, recorded.

Of the same text and options the result is the same to the byte, whatever the number of workers. A run that is
killed leaves nothing behind that looks finished; one that finds its result does nothing.

Example:
  fairseq-masking prepare corpus --train wiki.txt.xz --out data --vocab-size 8000 --workers 8
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fairseq_masking.cli.options import add_shared, at_least
from fairseq_masking.corpus.documents import DOCUMENT_BOUNDS
from fairseq_masking.corpus.manifest import Manifest
from fairseq_masking.tokenizers import BertTokenizer, Gpt2Tokenizer, SentencePieceTokenizer, Tokenizer
from fairseq_masking.tokenizers.normalization import TextNormalizer
from fairseq_masking.tokenizers.sentencepiece import NORMALIZATIONS, BpeTraining
from fairseq_masking.tokenizers.vocabularies import SymbolCounting, symbols_apart

_TRAINED = "train-bpe"
_TEXT_STEPS = ("unescape_entities", "lowercase", "split_sentences", "moses_normalize", "moses_tokenize")
_Made = Tokenizer | BpeTraining | SymbolCounting
_OF_TRAINING = ("vocab_size", "character_coverage", "byte_fallback", "input_sentences", "normalization")
# Tokeniser -> what makes it, the options with its files, its other options.
_TOKENIZERS: dict[str, tuple[Callable[..., _Made], tuple[str, ...], tuple[str, ...]]] = {
    _TRAINED: (BpeTraining, (), _OF_TRAINING),
    "sentencepiece": (SentencePieceTokenizer, ("sentencepiece_model",), ()),
    "gpt2": (Gpt2Tokenizer, ("gpt2_encoder_json", "gpt2_vocab_bpe"), ()),
    "whitespace": (SymbolCounting, (), ()),
    "wordpiece": (BertTokenizer, ("wordpiece_vocab",), ("wordpiece_lowercase",)),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    # fmt: off
    group = parser.add_argument_group("input and output")
    add = group.add_argument
    text = {"nargs": "+", "type": Path, "metavar": "FILE"}
    add("--train", **text, help="UTF-8 text, plain, .xz, .gz or .bz2")
    add("--valid", **text, help="text to validate on (default: --valid-fraction of --train)")
    add_shared(group, "out", "folder to make", metavar="DIR")
    add("--from-fairseq", type=Path, metavar="DIR",
        help="instead of --train and --out: data of fairseq-preprocess, beside which to write its manifest")
    add("--documents", choices=DOCUMENT_BOUNDS, default="line",
        help="line: each line is a document. blank-line: empty lines stand between them")
    add("--valid-fraction", type=_share("[0, 1)", lambda share: 0 <= share < 1), metavar="F",
        help="share of the documents to validate on where no --valid is given (default: 0.01)")
    add("--shards", type=at_least(1), default=1, metavar="N", help="deal the documents out to N folders")
    add_shared(group, "seed", "of the validation split and of the lines a tokeniser is trained on")
    add("--workers", type=at_least(1), default=1, metavar="N", help="processes; the result does not depend on it")
    add("--force", action="store_true", help="replace a folder made with other settings or inputs")
    add("--progress", action="store_true", help="progress bars even where nobody is watching")

    add = parser.add_argument_group("text").add_argument
    add("--unescape-entities", action="store_true", help="HTML's entities (&amp;) as characters")
    add("--lowercase", action="store_true", help="lower-case the text")
    add("--split-sentences", action="store_true", help="one sentence a line, by rules; empty lines between documents")
    add("--moses-normalize", action="store_true", help="normalise punctuation")
    add("--moses-tokenize", action="store_true", help="spaces between words and punctuation")
    add("--moses-lang", default="en", metavar="LANG", help="language of these three (default: en)")

    trained = BpeTraining()
    add = parser.add_argument_group("tokeniser").add_argument
    add("--tokenizer", choices=_TOKENIZERS, default=_TRAINED,
        help=f"train a SentencePiece BPE, take one, or take symbols as white space parts them (default: {_TRAINED})")
    add("--tokenizer-from", metavar="MODEL",
        help="instead of --tokenizer: a Hugging Face folder or name on the hub, or a prepared corpus, whose"
        " tokeniser and dictionary to take (for --init-from)")
    add("--dictionary", type=Path, metavar="FILE",
        help="dict.txt of a checkpoint to go on from, instead of the tokeniser's own order")
    add("--vocab-size", type=at_least(6), metavar="N",
        help=f"train-bpe: symbols, the 5 special ones included (default: {trained.vocab_size})")
    add("--character-coverage", type=_share("(0, 1]", lambda share: 0 < share <= 1), metavar="F",
        help=f"train-bpe: share of characters to keep (default: {trained.character_coverage:.5f})")
    add("--byte-fallback", action="store_true", help="train-bpe: write other characters as bytes, not <unk>")
    add("--input-sentences", type=at_least(0), metavar="N",
        help=f"train-bpe: lines to train on, 0 for all (default: {trained.input_sentences})")
    add("--normalization", choices=NORMALIZATIONS,
        help=f"train-bpe: SentencePiece's rules for characters (default: {trained.normalization})")
    add("--sentencepiece-model", type=Path, metavar="FILE", help="sentencepiece: the .model file")
    add("--gpt2-encoder-json", type=Path, metavar="FILE", help="gpt2: encoder.json")
    add("--gpt2-vocab-bpe", type=Path, metavar="FILE", help="gpt2: vocab.bpe")
    add("--wordpiece-vocab", type=Path, metavar="FILE", help="wordpiece: BERT's vocab.txt")
    add("--wordpiece-lowercase", action="store_true", help="wordpiece: lower-case, strip accents (uncased BERT)")
    # fmt: on


def check(args: argparse.Namespace) -> None:
    for message in _conflicts(args):
        raise argparse.ArgumentError(None, message)


def _conflicts(args: argparse.Namespace) -> Iterator[str]:
    def first(names: Iterable[str]) -> str:
        return f"--{next(iter(names)).replace('_', '-')}"

    chosen, made = args.tokenizer, _given(args, ("train", "out"))
    if args.from_fairseq is not None and (more := {**made, **_given(args, ("valid", "valid_fraction", *_TEXT_STEPS))}):
        yield f"--from-fairseq takes data that is made already: leave {first(more)} out"
    if args.from_fairseq is None and len(made) < 2:
        yield "--train and --out are required (or --from-fairseq)"
    if chosen == "whitespace" and (steps := _given(args, _TEXT_STEPS)):
        yield f"--tokenizer whitespace takes symbols as they are: leave {first(steps)} out"
    for tokenizer, (_, files, more) in _TOKENIZERS.items():
        given = _given(args, (*files, *more))
        if tokenizer != chosen and given:
            yield f"{first(given)} belongs to --tokenizer {tokenizer}, not to {chosen}"
        if tokenizer == chosen and (missing := [name for name in files if name not in given]):
            yield f"--tokenizer {tokenizer} needs {first(missing)}"
    if args.tokenizer_from is not None and chosen != _TRAINED:
        yield f"--tokenizer-from and --tokenizer {chosen} exclude each other; give one"
    if args.tokenizer_from is not None and (given := _given(args, ("dictionary", *_OF_TRAINING))):
        yield f"--tokenizer-from brings what {first(given)} says; leave that out"
    if args.valid is not None and args.valid_fraction is not None:
        yield "--valid and --valid-fraction exclude each other; give one"


def run(args: argparse.Namespace) -> None:
    import fairseq_masking.compat  # noqa: F401 - a fairseq that imports neither sklearn nor SciPy
    from fairseq_masking.corpus.prepare import Preparation, prepare
    from fairseq_masking.corpus.workspace import Reporter

    if args.from_fairseq is not None:
        return _adopt(args)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer, dictionary, steps = _tokenizer(args, Path(scratch))
        text = {field.name: getattr(args, field.name) for field in dataclasses.fields(TextNormalizer)}
        if more := {name: value for name, value in steps.items() if text[name] != value}:
            print(f"as {args.tokenizer_from} was: {', '.join(f'{name} {value}' for name, value in more.items())}")
        preparation = Preparation(
            train=tuple(args.train), valid=tuple(args.valid or ()), output=args.out, tokenizer=tokenizer,
            documents=args.documents, normalizer=TextNormalizer(**{**text, **steps}), dictionary=dictionary,
            num_shards=args.shards, seed=args.seed, **_given(args, ("valid_fraction",)),
        )  # fmt: skip
        reporter = Reporter(bars=args.progress or None)
        manifest, is_new = prepare(preparation, reporter=reporter, workers=args.workers, force=args.force)
    if not is_new:
        print(f"{args.out} was prepared with these settings and inputs: nothing to do")
    _show(manifest, args.out)


def _adopt(args: argparse.Namespace) -> None:
    from fairseq_masking.corpus.prepare import adopt
    from fairseq_masking.corpus.workspace import check_name

    folder = args.from_fairseq
    check_name(folder)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = _tokenizer(args, Path(scratch))[0] if args.tokenizer != "whitespace" else None
        if isinstance(tokenizer, BpeTraining):  # the default: nothing was said
            tokenizer = symbols_apart(folder / "dict.txt")
        _show(adopt(folder, tokenizer), folder)


def _show(manifest: Manifest, folder: Path) -> None:
    for split, counts in sorted(manifest.counts.items()):
        shown = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        print(f"{split}: {shown} ({counts['unknown'] / counts['tokens']:.3%})")
    print(f"fairseq-train takes: {manifest.data(folder)}")


def _share(allowed: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    def share(text: str) -> float:
        value = float(text)
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{text} is not in {allowed}")
        return value

    return share


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the options that were given; of the others the room knows the defaults."""
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def _tokenizer(args: argparse.Namespace, scratch: Path) -> tuple[_Made, Path | None, dict[str, Any]]:
    """The tokeniser, the dict.txt in whose order its symbols shall stand, and what it needs done to the text."""
    if args.tokenizer_from is not None:
        from fairseq_masking.corpus.prepare import tokenizer_of

        return tokenizer_of(args.tokenizer_from, scratch)
    make, files, more = _TOKENIZERS[args.tokenizer]
    options = {name.removeprefix("wordpiece_"): value for name, value in _given(args, more).items()}
    if args.tokenizer == _TRAINED:
        options["seed"] = args.seed
    return make(*(getattr(args, name) for name in files), **options), args.dictionary, {}
