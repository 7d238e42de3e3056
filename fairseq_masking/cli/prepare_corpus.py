"""prepare_corpus: raw text to the data folder that fairseq-train takes."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fairseq_masking.cli.parsing import OneLineParser, at_least, fail
from fairseq_masking.corpus.documents import DOCUMENT_BOUNDS
from fairseq_masking.corpus.manifest import Manifest
from fairseq_masking.corpus.prepare import Preparation, prepare
from fairseq_masking.corpus.progress import Reporter
from fairseq_masking.corpus.train_tokenizer import BpeTraining
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.base import (
    BertTokenizer,
    Gpt2Tokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)
from fairseq_masking.tokenizers.from_hugging_face import tokenizer_of
from fairseq_masking.tokenizers.normalization import TextNormalizer

__all__ = ["get_parser", "main"]

# Tokeniser -> the options that belong to it, with those of them that it needs.
_TOKENIZERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "train-bpe": (("vocab_size", "character_coverage", "byte_fallback", "input_sentences"), ()),
    "sentencepiece": (("sentencepiece_model",), ("sentencepiece_model",)),
    "gpt2": (("gpt2_encoder_json", "gpt2_vocab_bpe"), ("gpt2_encoder_json", "gpt2_vocab_bpe")),
    "wordpiece": (("wordpiece_vocab", "wordpiece_lowercase"), ("wordpiece_vocab",)),
}


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    defaults = BpeTraining()
    coverage = defaults.character_coverage
    parser = OneLineParser(
        prog="prepare_corpus",
        description="Turns raw text into the data folder that fairseq-train takes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("input and output").add_argument
    add(
        "--train",
        nargs="+",
        type=Path,
        required=True,
        metavar="FILE",
        help="UTF-8 text, plain, .xz, .gz or .bz2",
    )
    add("--valid", nargs="+", type=Path, metavar="FILE", help="text to validate on (none: --valid-fraction)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    add("--documents", choices=DOCUMENT_BOUNDS, default="line",
        help="line: each line is a document. blank-line: empty lines stand between documents")  # fmt: skip
    add("--valid-fraction", type=float, metavar="F",
        help="share of the documents to validate on where no --valid is given (default: 0.01)")  # fmt: skip
    add("--shards", type=int, default=1, metavar="N", help="deal the documents out to N folders")
    add(
        "--seed",
        type=int,
        default=1,
        help="of the validation split and of the lines a tokeniser is trained on",
    )
    add("--workers", type=int, default=1, metavar="N", help="processes; the result does not depend on it")
    add(
        "--force",
        action="store_true",
        default=False,
        help="replace a folder made with other settings or inputs",
    )
    add("--progress", action="store_true", default=False, help="progress bars even where nobody is watching")

    add = parser.add_argument_group("text").add_argument
    add("--lowercase", action="store_true", default=False, help="lower-case the text")
    add("--split-sentences", action="store_true", default=False,
        help="one sentence a line, by rules; an empty line between documents")  # fmt: skip
    add("--moses-normalize", action="store_true", default=False, help="normalise punctuation")
    add("--moses-tokenize", action="store_true", default=False, help="spaces between words and punctuation")
    add("--moses-lang", default="en", help="language of these three")

    add = parser.add_argument_group("tokeniser").add_argument
    add(
        "--tokenizer", choices=_TOKENIZERS, default="train-bpe", help="train a SentencePiece BPE, or take one"
    )
    add("--tokenizer-from", metavar="MODEL",
        help="instead of --tokenizer: a Hugging Face folder or name on the hub, or a prepared corpus, whose"
        " tokeniser and dictionary to take (for --init-from)")  # fmt: skip
    add("--dictionary", type=Path, metavar="FILE",
        help="dict.txt of a checkpoint to go on from, instead of the tokeniser's own order")  # fmt: skip
    add("--vocab-size", type=int, metavar="N",
        help=f"train-bpe: symbols, the 5 special ones included (default: {defaults.vocab_size})")  # fmt: skip
    add("--character-coverage", type=float, metavar="F",
        help=f"train-bpe: share of characters to keep (default: {coverage:.5f})")  # fmt: skip
    add("--byte-fallback", action="store_true", help="train-bpe: write other characters as bytes, not <unk>")
    add("--input-sentences", type=int, metavar="N",
        help=f"train-bpe: lines to train on, 0 for all (default: {defaults.input_sentences})")  # fmt: skip
    add("--sentencepiece-model", type=Path, metavar="FILE", help="sentencepiece: the .model file")
    add("--gpt2-encoder-json", type=Path, metavar="FILE", help="gpt2: encoder.json")
    add("--gpt2-vocab-bpe", type=Path, metavar="FILE", help="gpt2: vocab.bpe")
    add("--wordpiece-vocab", type=Path, metavar="FILE", help="wordpiece: BERT's vocab.txt")
    add(
        "--wordpiece-lowercase",
        action="store_true",
        help="wordpiece: lower-case, strip accents (uncased BERT)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 1 for bad input, 130 when interrupted."""
    parser = get_parser()
    args = parser.parse_args(argv)
    _check_options(parser, args)
    reporter = Reporter(bars=True if args.progress else None)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            preparation = _preparation(args, Path(scratch))
            prepared = prepare(preparation, workers=args.workers, force=args.force, reporter=reporter)
    except UserError as error:
        return fail(parser, str(error), 1)
    except OSError as error:  # a full disk, a folder that may not be written
        return fail(parser, f"{error.filename or args.out}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return fail(parser, f"interrupted; {args.out} was not touched", 130)
    if not prepared.is_new:
        print(f"{args.out} was prepared with these settings and inputs: nothing to do")
    _print_summary(prepared.data, prepared.manifest)
    return 0


def _check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for tokenizer, (names, required) in _TOKENIZERS.items():
        for name in names:
            option = f"--{name.replace('_', '-')}"
            if tokenizer != args.tokenizer and hasattr(args, name):
                parser.error(f"{option} belongs to --tokenizer {tokenizer}, not to {args.tokenizer}")
            if tokenizer == args.tokenizer and name in required and not hasattr(args, name):
                parser.error(f"--tokenizer {tokenizer} needs {option}")
    if hasattr(args, "tokenizer_from"):
        others = ("dictionary", *(name for names, _ in _TOKENIZERS.values() for name in names))
        if given := next((name for name in others if hasattr(args, name)), None):
            parser.error(f"--tokenizer-from brings what --{given.replace('_', '-')} says; leave that out")
        if args.tokenizer != "train-bpe":
            parser.error(f"--tokenizer-from and --tokenizer {args.tokenizer} exclude each other; give one")
    if hasattr(args, "valid_fraction"):
        if hasattr(args, "valid"):
            parser.error("--valid and --valid-fraction exclude each other; give one")
        if not 0 <= args.valid_fraction < 1:
            parser.error(f"--valid-fraction {args.valid_fraction} is not in [0, 1)")
    at_least(parser, args, shards=1, workers=1, seed=0, vocab_size=6, input_sentences=0)
    if not 0 < getattr(args, "character_coverage", 1) <= 1:
        parser.error(f"--character-coverage {args.character_coverage} is not in (0, 1]")


def _preparation(args: argparse.Namespace, scratch: Path) -> Preparation:
    optional = {name: getattr(args, name) for name in ("valid_fraction", "dictionary") if hasattr(args, name)}
    tokenizer = _tokenizer(args)
    if hasattr(args, "tokenizer_from"):
        tokenizer, optional["dictionary"] = tokenizer_of(args.tokenizer_from, scratch)
    return Preparation(
        train=tuple(args.train),
        valid=tuple(getattr(args, "valid", ())),
        output=args.out,
        tokenizer=tokenizer,
        documents=args.documents,
        normalizer=TextNormalizer(
            moses_normalize=args.moses_normalize,
            split_sentences=args.split_sentences,
            moses_tokenize=args.moses_tokenize,
            lowercase=args.lowercase,
            moses_lang=args.moses_lang,
        ),
        num_shards=args.shards,
        seed=args.seed,
        **optional,
    )


def _tokenizer(args: argparse.Namespace) -> Tokenizer | BpeTraining:
    if args.tokenizer == "sentencepiece":
        return SentencePieceTokenizer(args.sentencepiece_model)
    if args.tokenizer == "gpt2":
        return Gpt2Tokenizer(args.gpt2_encoder_json, args.gpt2_vocab_bpe)
    if args.tokenizer == "wordpiece":
        return BertTokenizer(args.wordpiece_vocab, lowercase=hasattr(args, "wordpiece_lowercase"))
    names, _ = _TOKENIZERS["train-bpe"]
    return BpeTraining(seed=args.seed, **{name: getattr(args, name) for name in names if hasattr(args, name)})


def _print_summary(data: str, manifest: Manifest) -> None:
    for split in ("train", "valid"):
        if counts := manifest.counts.get(split):
            print(
                f"{split}: {counts['documents']:,} documents, {counts['lines']:,} lines, "
                f"{counts['tokens']:,} tokens, "
                f"{counts['unknown']:,} unknown ({counts['unknown'] / counts['tokens']:.3%})"
            )
    print(f"fairseq-train takes: {data}")


if __name__ == "__main__":
    sys.exit(main())
