"""What preparation did to a text without being asked, and what its tokeniser could not write: said, not silent."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from fairseq_masking.corpus.documents import Met
from fairseq_masking.corpus.encoding import TextEncoder
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers import Tokenizer

__all__ = ["changes_of", "check_unknown", "rewritten"]

logger = logging.getLogger(__name__)

# Rule -> what was done, and how to have it otherwise.
_RULES = {
    "entity": ("HTML entities left as text", "--unescape-entities makes characters of them"),
    "break": ("line breaks inside of lines made spaces", "tr '\\r' '\\n' makes them end lines"),
    "invisible": ("lines without a visible character taken for empty ones", "delete them, or fill them"),
    "rewritten": ("characters rewritten by the tokeniser", "--normalization identity trains one that keeps them"),
}
_WARN, _REFUSE = 0.01, 0.5  # shares of unknown tokens
_SHOWN, _SHOWN_UNKNOWN, _SEARCHED = 3, 5, 1000


def changes_of(met: Met) -> list[str]:
    """Returns a line for each rule that was met: how often, its most frequent instances, the option."""
    lines = []
    for rule, (done, otherwise) in _RULES.items():
        found = Counter({instance: count for (name, instance), count in met.items() if name == rule})
        if found:
            lines.append(f"{found.total():,} {done}, such as {_most(found, _SHOWN)}; {otherwise}")
    return lines


def rewritten(characters: Counter[str], tokenizer: Tokenizer) -> Met:
    """Returns those of a text's characters that its tokeniser's normaliser replaces or leaves out."""
    met = Met()
    for character, count in characters.items():
        after = tokenizer.normalize(f"x{character}x").strip()[1:-1]
        if after.strip() != character.strip():
            met["rewritten", f"{character!r} to {after!r}"] = count
    return met


def check_unknown(unknown: int, tokens: int, texts: Iterable[str], encoder: TextEncoder, what: str) -> None:
    """Warns where a tokeniser cannot write more than 1% of a text's tokens, and names the most frequent ones.

    Args:
        unknown: how many of ``tokens``.
        texts: where to look for them, until enough are found.

    Raises:
        UserError: it cannot write half of them.
    """
    if unknown <= _WARN * tokens:
        return
    found, searched = Counter[str](), 0
    for text in texts:
        ids, offsets = encoder.with_offsets(text)
        words = [
            text[slice(*place)] for index, place in zip(ids, offsets, strict=True) if index == encoder.dictionary.unk()
        ]
        found.update(words)
        searched += bool(words)
        if searched == _SEARCHED:
            break
    said = f"{unknown / tokens:.1%} of the tokens of {what} are <unk>, most often {_most(found, _SHOWN_UNKNOWN, repr)}"
    advice = "is the tokeniser made for such text, its case included (--wordpiece-lowercase, --lowercase)?"
    if unknown > _REFUSE * tokens:
        raise UserError(f"{said}: {advice} Take or train another one (--tokenizer, --tokenizer-from)")
    logger.warning("%s; %s --byte-fallback of train-bpe leaves none", said, advice)


def _most(found: Counter[str], number: int, show: Callable[[str], str] = str) -> str:
    return ", ".join(f"{show(instance)} ({count:,})" for instance, count in found.most_common(number))
