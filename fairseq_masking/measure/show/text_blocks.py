"""Text as a model reads it, and as a person does: blocks of ids, and lines of words of tokens.

Shapes: T tokens of a block.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.errors import UserError

__all__ = ["begins_word", "cut_blocks", "cut_texts", "lines_of_words", "surface", "token_places"]


def cut_blocks(hub: HubInterface, lines: Iterable[str], tokens_per_block: int) -> list[Tensor]:
    """Return blocks ``<s> ... </s>`` of at most ``tokens_per_block`` ids, </s> between lines as in training.

    A block ends where a word does, if it holds more than one.
    """
    end, room = hub.dictionary.eos(), tokens_per_block - 2
    stream: list[int] = []
    for line in lines:
        ids = hub.encode(line).tolist()[1:-1]
        if ids:
            stream += [*ids, end]
    blocks, start = [], 0
    while start < len(stream):
        stop = min(start + room, len(stream))
        if stop < len(stream):
            begins = (i for i in range(stop, start, -1) if begins_word(hub, stream[i]))
            stop = next(begins, stop)
        body = stream[start:stop]
        while body and body[-1] == end:  # the block brings its own
            body.pop()
        if body:
            blocks.append(torch.tensor([hub.dictionary.bos(), *body, end]))
        start = stop
        while start < len(stream) and stream[start] == end:
            start += 1
    return blocks


def cut_texts(hub: HubInterface, texts: Iterable[Iterable[str]], tokens_per_block: int) -> list[Tensor]:
    """Return the blocks of several texts, each a number of lines; no block holds parts of two.

    Raises:
        UserError: there is no word in them, or mostly <unk>.
    """
    blocks = [block for lines in texts for block in cut_blocks(hub, lines, tokens_per_block)]
    if not blocks:
        raise UserError("the text holds no words to mask: give some")
    hub.check_known(torch.cat(blocks), (line for lines in texts for line in lines))
    return blocks


def begins_word(hub: HubInterface, index: int) -> bool:
    """Whether a word, a special symbol or the next line begins with this id."""
    return index == hub.dictionary.eos() or hub.tokenizer.starts_word(hub.dictionary[index])


def surface(hub: HubInterface, index: int) -> str:
    """The id's text without spaces; a symbol that has none is shown as it is."""
    symbol = hub.dictionary[index]
    return hub.tokenizer.surface(symbol).strip() or symbol


def token_places(hub: HubInterface, tokens_T: Tensor) -> Iterator[tuple[int, str, bool, bool]]:
    """Yield of each token: column, text, whether a word or symbol begins, whether a line ends (no text)."""
    for column, index in enumerate(tokens_T.tolist()[1:-1], 1):
        ends_line = index == hub.dictionary.eos()
        yield column, "" if ends_line else surface(hub, index), begins_word(hub, index), ends_line


def lines_of_words(tokens: Iterable[Any]) -> Iterator[list[list[Any]]]:
    """Yield lines of words of tokens, by their ``begins_word``; one that ``ends_line`` stands in none."""
    words: list[list[Any]] = []
    for token in tokens:
        if token.ends_line:
            yield words
            words = []
        elif token.begins_word or not words:
            words.append([token])
        else:
            words[-1].append(token)
    yield words
