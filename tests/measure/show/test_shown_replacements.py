"""Text with what AMOS puts in place: what is masked, what stands there, and both renderings."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import small_amos
import torch
from rich.console import Console
from small_batches import MASK_INDEX, NUM_SYMBOLS, dictionary

from fairseq_masking.measure.amos import generate, predict, source_names
from fairseq_masking.measure.show.render import DOUBTS, legend, render_page, replacement_lines
from fairseq_masking.measure.show.shown import (
    Choice,
    ReplacedBlock,
    ReplacedToken,
    Replacement,
    replacements_summary,
    show_replacements,
    table_rows,
)

BLOCK = torch.tensor([0, 5, 6, 7, 2, 8, 9, 3, 2])  # a line's end inside, and an unknown word


@pytest.fixture(scope="module")
def hub():
    tokenizer = SimpleNamespace(
        starts_word=lambda symbol: not symbol.endswith(("3", "7")),
        surface=lambda symbol: symbol if symbol.endswith(("3", "7")) else f" {symbol}",
    )
    model = small_amos.build("cpu").eval()
    return SimpleNamespace(model=model, dictionary=dictionary(), tokenizer=tokenizer, device=torch.device("cpu"))


@pytest.fixture
def special():
    special = np.zeros(NUM_SYMBOLS, dtype=bool)
    special[[0, 1, 2, 3, MASK_INDEX]] = True
    return special


def show(hub, special, *blocks, **options):
    return list(show_replacements(hub, blocks, special, **{"mask_prob": 0.4, **options}))


def test_masked_tokens_and_what_is_said_of_them(hub, special):
    (block,) = show(hub, special, BLOCK, top=4)
    assert [token.text for token in block.tokens] == ["w1", "w2", "w3", "", "w4", "w5", "<unk>"]
    assert [token.begins_word for token in block.tokens] == [True, True, False, True, True, True, True]
    assert block.tokens[3].ends_line and not block.tokens[6].replacements
    assert len(block.masked) == 3  # floor(0.4 * 7 + 0.5)
    columns = [column for column, token in enumerate(block.tokens, 1) if token.replacements]
    positions = torch.tensor(columns)
    sources = generate(
        hub.model, BLOCK[None], positions=positions, replacements=torch.full_like(positions, MASK_INDEX), batch_seed=0
    )
    probabilities_SNV = predict(hub.model, sources)
    for place, token in enumerate(block.masked):
        assert [one.weight for one in token.replacements[:3]] == pytest.approx(sources.weights_NK[place].tolist())
        assert token.replacements[3].weight is None
        for source, one in enumerate(token.replacements):
            best = probabilities_SNV[source, place].topk(4)
            assert [choice.probability for choice in one.likeliest] == pytest.approx(best.values.tolist())
            pieces = [hub.dictionary[index] for index in best.indices.tolist()]
            assert [choice.text.removeprefix("-") for choice in one.likeliest] == pieces
            assert one.is_original == (one.put.text.removeprefix("-") == token.text)
            index = hub.dictionary.index(one.put.text.removeprefix("-"))
            assert one.put.probability == pytest.approx(float(probabilities_SNV[source, place, index]))
        assert token.doubt == token.replacements[3].doubt


def test_doubt_is_of_the_text_with_a_source_s_own_tokens(hub, special):
    blocks = (show(hub, special, BLOCK, num_masks=4, seed=seed)[0] for seed in range(50))
    block = next(block for block in blocks if any(_differ(token.replacements) for token in block.masked))
    for source in (0, 3):
        text = BLOCK.clone()
        for column, token in enumerate(block.tokens, 1):
            if token.replacements:
                put = token.replacements[source].put.text.removeprefix("-")
                text[column] = hub.dictionary.index(put)
        with torch.no_grad():
            logits_T = hub.model.detection_head(hub.model.encoder(text[None])[-1])[0, :, 0]
        expected = (1 - logits_T.sigmoid()).tolist()
        for column, token in enumerate(block.tokens, 1):
            if token.replacements:
                assert token.replacements[source].doubt == pytest.approx(expected[column], abs=1e-6)
            elif source == 3 and not token.ends_line:
                assert token.doubt == pytest.approx(expected[column], abs=1e-6)


def _differ(replacements):
    return replacements[0].put.text != replacements[3].put.text


def test_the_likeliest_token_can_stand_in_place(hub, special):
    (block,) = show(hub, special, BLOCK, likeliest=True)
    found = [one for token in block.masked for one in token.replacements]
    assert all(one.put == one.likeliest[0] for one in found)
    (drawn,) = show(hub, special, BLOCK)
    assert any(one.put != one.likeliest[0] for token in drawn.masked for one in token.replacements)


def test_masks_follow_the_seed_and_the_block(hub, special):
    assert show(hub, special, BLOCK, BLOCK, seed=4) == show(hub, special, BLOCK, BLOCK, seed=4)
    masked = {
        tuple(token.text for token in block.masked)
        for seed in range(8)
        for block in show(hub, special, BLOCK, BLOCK, seed=seed, num_masks=1)
    }
    assert masked == {("w1",), ("w2",), ("w3",), ("w4",), ("w5",)}
    (everything,) = show(hub, special, BLOCK, num_masks=99)
    assert len(everything.masked) == 5


def test_masks_of_the_text_are_the_only_ones(hub, special):
    text = BLOCK.clone()
    text[2] = MASK_INDEX
    (block,) = show(hub, special, text)
    (token,) = block.masked
    assert token.text == "<mask>" and {one.is_original for one in token.replacements} == {None}
    (nothing,) = show(hub, special, torch.tensor([0, 3, 2]))
    assert not nothing.masked and nothing.tokens[0].text == "<unk>"


def replacement(text, doubt, *, weight=None, original=False):
    return Replacement(weight, [Choice(text, 0.5), Choice("<b>", 0.25)], Choice(text, 0.5), original, doubt)


SHOWN = ReplacedBlock(
    [
        ReplacedToken("He", True, doubt=0.01),
        ReplacedToken(
            "sat", True, doubt=0.9,
            replacements=(replacement("at", 0.3, weight=0.25), replacement("-\x1b[31m", 0.9)),
        ),
        ReplacedToken("s", False, doubt=0.2),
        ReplacedToken("", True, ends_line=True),
        ReplacedToken("down", True, doubt=0.6),
    ]
)  # fmt: skip
SOURCES = ["layer 1", "mixture"]


def lines_of(blocks, *, width, colour):
    """What a console writes of them."""
    output = io.StringIO()
    console = Console(
        file=output, color_system="256" if colour else None, force_terminal=True, no_color=False,
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    for line in replacement_lines(blocks, SOURCES, width=width):
        console.print(line)
    return output.getvalue().splitlines()


def test_terminal():
    plain = lines_of([SHOWN, SHOWN], width=40, colour=False)
    assert plain[:3] == ["He [sat](at/-\N{REPLACEMENT CHARACTER}[31m)·s", "down", ""]
    assert re.split(r"\s*\|\s*", plain[5].strip("| ")) == [
        "1 sat", "layer 1", "0.25", "at 50.0%, <b> 25.0%", "at 50.0%", "30%"
    ]  # fmt: skip
    assert re.split(r"\s*\|\s*", plain[6])[1:4] == ["", "mixture", ""]
    assert plain[7] == "" and plain[8:] == plain[:7]
    coloured = lines_of([SHOWN, SHOWN], width=40, colour=True)
    assert [re.sub(r"\033\[[\d;]*m", "", line) for line in coloured] == plain
    assert "\033[38;5;16;48;5;231mHe\033[0m" in coloured[0], "a token that nobody doubts is white"
    coloured, plain = (legend("replacements", "words", coloured=coloured) for coloured in (True, False))
    assert len(coloured.spans) == len(DOUBTS) and "100%  taken for replaced" in coloured.plain and not plain.spans


def test_fillings_that_are_the_same_stand_once():
    token = ReplacedToken("sat", True, replacements=(replacement("at", 0.3), replacement("at", 0.9)))
    assert lines_of([ReplacedBlock([token])], width=40, colour=False)[0] == "[sat](at)"
    page = render_page(
        "replacements", blocks=[ReplacedBlock([token])], sources=SOURCES, title="t", facts={}, notice=None
    )
    assert page.count(">at</span>") == 1 and 'title="layer 1, mixture, p = 50.0%: taken for replaced: 90.0%"' in page


@pytest.mark.parametrize("width", [1, 12, 30])
def test_lines_wrap(width):
    lines = lines_of([ReplacedBlock(SHOWN.tokens[:3] * 9)], width=width, colour=False)
    text = lines[: lines.index("")]
    assert all(len(line) <= max(width, 19) for line in text) and " ".join(text).count("[sat]") == 9


def test_page():
    page = render_page(
        "replacements", blocks=[SHOWN], sources=SOURCES, title="A <title>",
        facts={"checkpoint": "a & b"}, notice=None,
    )  # fmt: skip
    assert "<script" not in page and "&lt;title&gt;" in page and "a &amp; b" in page
    assert "http" not in page
    assert page.count("<td>mixture</td>") == 1 and "&lt;b&gt; 25.0%" in page
    assert 'title="layer 1, p = 50.0%: taken for replaced: 30.0%">at</span>' in page
    assert page.count("<p>") == 2


def test_summary_counts_replaced_and_detected():
    tokens = [
        ReplacedToken("a", True, replacements=(replacement("a", 0.9, original=True), replacement("b", 0.6))),
        ReplacedToken("a", True, replacements=(replacement("c", 0.4), replacement("b", 0.5))),
    ]
    assert replacements_summary([ReplacedBlock(tokens)], SOURCES) == (
        "2 tokens masked in 1 block; layer 1: 1 replaced, 0 of them detected; mixture: 2 replaced, 1 of them detected"
    )
    assert table_rows(ReplacedBlock(tokens), SOURCES)[0][4] == "a 50.0% = original"
    assert source_names(small_amos.build("cpu"))[-1] == "mixture"
