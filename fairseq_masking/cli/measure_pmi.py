"""Which words of a corpus belong together, by pointwise mutual information: the units of --mask-unit pmi.

Scores all n-grams of 2 to 5 words (2010.01825, Eq. 3) and writes the best of each length into the corpus's folder,
where training looks for them: DATA/pmi.txt.

Example:
  fairseq-masking measure pmi --data data/wiki
"""

import argparse

from fairseq_masking.cli.options import add_shared, at_least

_SHOWN = 5  # of each length


def add_options(parser: argparse.ArgumentParser) -> None:
    add_shared(parser, "data", required=True)
    add = parser.add_argument
    add("--size", type=at_least(8), default=800_000, metavar="N", help="n-grams to keep, at most")
    add("--min-count", type=at_least(1), default=11, metavar="N", help="fewest occurrences of one")


def run(args: argparse.Namespace) -> None:
    import numpy as np

    import fairseq_masking.compat  # noqa: F401 - a fairseq that imports neither sklearn nor SciPy
    from fairseq_masking.corpus.collocations import find_collocations, write_collocations
    from fairseq_masking.corpus.dictionary import load_dictionary, masking_vocabulary
    from fairseq_masking.corpus.indexed import load_tokens
    from fairseq_masking.errors import UserError

    dictionary = load_dictionary(args.data / "dict.txt")
    vocabulary = masking_vocabulary(dictionary, folder=args.data, need_words=True)
    tokens = load_tokens(str(args.data / "train"), dictionary, combine=True)
    tokens_T = np.concatenate([tokens[index].numpy() for index in range(len(tokens))])
    found = list(find_collocations(tokens_T, vocabulary, size=args.size, min_count=args.min_count))
    if not found:
        raise UserError(f"{args.data}: no n-gram occurs {args.min_count} times or more: lower --min-count")
    write_collocations(args.data, found, dictionary)
    for num_words in sorted({one.num_words for one in found}):
        chosen = [one for one in found if one.num_words == num_words]
        shown = "; ".join(" ".join(dictionary.symbols[token] for token in one.tokens) for one in chosen[:_SHOWN])
        print(f"{len(chosen):,} of {num_words} words: {shown}")
    print(f"written to {args.data / 'pmi.txt'}")
