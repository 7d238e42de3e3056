"""Text with its law: blocks, probabilities, drawn positions, and both renderings."""

import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.color import Color, ColorSystem
from rich.console import Console

from fairseq_masking.measure.sequences import cut_blocks
from fairseq_masking.measure.show import shown
from fairseq_masking.measure.show.render import TIMES_UNIFORM, colour_of, legend, mask_lines, render_page, scale
from fairseq_masking.measure.show.shown import ShownBlock, ShownToken, show_masks

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "▁the", "▁cat", "s", "▁sat", "ting", "▁", "<mask>"]
BOS, PAD, EOS, UNK, MASK = 0, 1, 2, 3, 10
IDS = {"the": [4], "cat": [5], "cats": [5, 6], "sat": [7], "sitting": [7, 8, 6], "?": [3]}


class Dictionary:
    def __getitem__(self, index):
        return SYMBOLS[index]

    def index(self, symbol):
        return SYMBOLS.index(symbol)

    def eos(self):
        return EOS

    def bos(self):
        return BOS

    def pad(self):
        return PAD


class Model(torch.nn.Module):
    """Proposes by the token's id; its loss at a position is the token's id too."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.shapes = []

    def propose(self, src_tokens):
        self.shapes.append(tuple(src_tokens.shape))
        special = torch.isin(src_tokens, torch.tensor([BOS, PAD, EOS, UNK, MASK]))
        return (src_tokens.float() / 2).masked_fill(special, -torch.inf).log_softmax(1)

    def forward(self, src_tokens, positions, **_):
        return SimpleNamespace(losses_N=src_tokens.flatten()[positions].float())


@pytest.fixture
def hub():
    tokenizer = SimpleNamespace(
        starts_word=lambda symbol: symbol.startswith(("▁", "<")),
        surface=lambda symbol: " " + symbol if symbol.startswith("<") else symbol.replace("▁", " "),
    )
    return SimpleNamespace(
        model=Model().eval(),
        dictionary=Dictionary(),
        tokenizer=tokenizer,
        device=torch.device("cpu"),
        encode=lambda line: torch.tensor([BOS, *(i for word in line.split() for i in IDS[word]), EOS]),
    )


@pytest.fixture
def special():
    special = np.zeros(len(SYMBOLS), dtype=bool)
    special[[BOS, PAD, EOS, UNK, MASK]] = True
    return special


def test_blocks_are_cut_where_words_begin(hub):
    blocks = cut_blocks(hub, ["the cats sat", "", "the sitting"], 7)
    assert [block.tolist() for block in blocks] == [[0, 4, 5, 6, 7, 2], [0, 4, 7, 8, 6, 2]]
    # 3 tokens would end inside "cats"
    assert [block.tolist() for block in cut_blocks(hub, ["the cat cats"], 5)] == [[0, 4, 5, 2], [0, 5, 6, 2]]
    # a word that ends with the block stays in it
    assert [block.tolist() for block in cut_blocks(hub, ["the cat sat the"], 5)] == [[0, 4, 5, 7, 2], [0, 4, 2]]
    # a word longer than a block is cut all the same
    assert [block.tolist() for block in cut_blocks(hub, ["sitting"], 4)] == [[0, 7, 8, 2], [0, 6, 2]]
    assert [block.tolist() for block in cut_blocks(hub, ["cat", "sat"], 20)] == [[0, 5, 2, 7, 2]]
    assert cut_blocks(hub, ["", ""], 20) == []
    many = cut_blocks(hub, ["the cats sat sitting"] * 500, 16)
    assert all(len(block) <= 16 for block in many)
    kept = [token for block in many for token in block.tolist() if token not in (BOS, EOS)]
    assert kept == [4, 5, 6, 7, 7, 8, 6] * 500


def test_probabilities_are_the_proposals_whatever_stands_beside_in_the_batch(hub, special):
    blocks = cut_blocks(hub, ["the cats sat ?"], 20) + cut_blocks(hub, ["sat"], 20)
    first, second = show_masks(hub, blocks, special, law="proposal", mask_prob=0.5)
    weights = np.exp(np.array([4, 5, 6, 7]) / 2)
    found = [token.probability for token in first.tokens]
    np.testing.assert_allclose(found[:4], weights / weights.sum(), rtol=1e-6)
    assert found[4] is None and first.tokens[4].relative is None and first.tokens[4].draw is None
    np.testing.assert_allclose([t.relative for t in first.tokens[:4]], 4 * weights / weights.sum(), rtol=1e-6)
    assert first.num_masked == 3  # floor(0.5 * 5 + 0.5)
    assert sorted(t.draw for t in first.tokens if t.draw is not None) == [1, 2, 3]
    assert (second.num_masked, second.tokens[0].probability) == (1, pytest.approx(1.0))
    assert np.isnan(second.entropy) and 0 < first.entropy < 1
    assert hub.model.shapes == [(2, 7)]


def test_drawn_positions_follow_the_law_and_the_seed(hub, special):
    blocks = cut_blocks(hub, ["the cats sat"], 20)
    drawn = np.zeros(4)
    for seed in range(1200):
        (block,) = show_masks(hub, blocks, special, law="proposal", mask_prob=0.1, num_masks=1, seed=seed)
        drawn += [token.draw is not None for token in block.tokens]
    expected = 1200 * np.exp(np.array([4, 5, 6, 7]) / 2) / np.exp(np.array([4, 5, 6, 7]) / 2).sum()
    assert ((drawn - expected) ** 2 / expected).sum() < 16.3  # 3 degrees of freedom, 0.1%
    once, again = (list(show_masks(hub, blocks * 5, special, law="uniform", mask_prob=0.5, seed=3)) for _ in range(2))
    assert once == again
    assert len({tuple(token.draw for token in block.tokens) for block in once}) > 1, "blocks draw on their own"


def test_uniform_and_oracle(hub, special):
    blocks = cut_blocks(hub, ["the cats sat", "?"], 20)
    several = list(show_masks(hub, blocks, special, law="uniform", mask_prob=0.2, num_masks=2, splits=3))
    drawn = [{place for place, token in enumerate(block.tokens) if token.draw} for block in several]
    assert [block.split for block in several] == [0, 1, 2][: len(several)] and len(several) > 1
    assert sum(map(len, drawn)) == len(set.union(*drawn)) == min(6, len(several[0].maskable))
    (uniform,) = show_masks(hub, blocks, special, law="uniform", mask_prob=0.2, num_masks=9)
    assert [t.relative for t in uniform.tokens[:4]] == pytest.approx([1.0] * 4)
    assert uniform.num_masked == 4 and uniform.entropy == pytest.approx(1.0)
    assert uniform.tokens[0].loss is None and uniform.tokens[4].ends_line
    (oracle,) = show_masks(hub, blocks, special, law="oracle", mask_prob=0.2)
    assert [t.loss for t in oracle.tokens[:4]] == [4, 5, 6, 7]
    assert [t.probability for t in oracle.tokens[:4]] == pytest.approx([4 / 22, 5 / 22, 6 / 22, 7 / 22])
    (proposal,) = show_masks(hub, blocks, special, law="proposal", mask_prob=0.2, with_losses=True)
    assert proposal.tokens[3].loss == 7
    (empty,) = show_masks(hub, cut_blocks(hub, ["?"], 9), special, law="oracle", mask_prob=0.2)
    assert empty.num_masked == 0 and empty.tokens[0].probability is None


def token(text, relative=1.0, *, begins_word=True, draw=None, loss=None):
    probability = None if relative is None else relative / 10
    return ShownToken(text, begins_word, False, probability, relative, draw, loss)


BLOCK = ShownBlock(
    [
        token("ink", 1.53, draw=2),
        token("y", 0.2, begins_word=False),
        ShownToken("", True, ends_line=True),
        token("<unk>", None),
        token('<b>&"', 9.0, loss=5.25),
        token("\x1b[31m", 1.0),
    ],
    1,
    0.9,
)


def lines_of(blocks, *, width=40, colour=False, numbers=True):
    """What a console writes of them."""
    output = io.StringIO()
    console = Console(
        file=output, color_system="256" if colour else None, force_terminal=True, no_color=False,
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    for line in mask_lines(blocks, width=width, numbers=numbers):
        console.print(line)
    return output.getvalue().splitlines()


def test_terminal_without_colour():
    lines = lines_of([BLOCK, BLOCK])
    assert lines[:2] == ["[ink]·y", "153   20"]
    assert lines[2].startswith('<unk> <b>&"') and lines[3].split() == ["900", "100"]
    assert lines[3].index("900") == lines[2].index("<b>")
    assert lines[4] == "" and lines[5:] == lines[:4]
    assert "\x1b" not in "".join(lines), "what steers a terminal is no text"
    assert lines_of([BLOCK], numbers=False)[0] == "[ink]·y"


def test_terminal_with_colour_has_the_same_text():
    plain, coloured = lines_of([BLOCK]), lines_of([BLOCK], colour=True)
    assert [re.sub(r"\033\[[\d;]*m", "", line) for line in coloured] == plain
    assert f"\033[1;4;38;5;16;48;5;{in_256(1.53)}m[ink]\033[0m" in coloured[0]
    words = [legend("masks", "words", coloured=coloured) for coloured in (True, False)]
    assert words[0].plain.endswith(" 8  times uniform") and len(words[0].spans) == len(TIMES_UNIFORM)
    assert words[1].plain == "words"


@pytest.mark.parametrize("width", [1, 8, 20, 33])
def test_lines_wrap_between_words(width):
    words = ShownBlock([token(f"word{i}", 1.0) for i in range(30)], 0, 1.0)
    lines = lines_of([words], width=width)
    assert all(len(line) <= max(width, 6) for line in lines)
    assert " ".join(lines[::2]).split() == [f"word{i}" for i in range(30)]


def test_wide_letters_take_two_columns():
    block = ShownBlock([token("漢字", 1.0), token("a", 2.0)], 0, 1.0)
    assert lines_of([block]) == ["漢字 a", "100  200"] and lines_of([block], width=7)[2] == "a"


class Page(HTMLParser):
    """Collects the text, titles and open tags."""

    def __init__(self):
        super().__init__()
        self.titles, self.text, self.marked, self.open = [], [], 0, []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.titles += [found["title"]] if "title" in found else []
        self.marked += tag == "mark"
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_whole_escaped_and_needs_nothing_else():
    html = render_page(
        "masks", blocks=[BLOCK], title="A <title>", facts={"checkpoint": "a&b.pt"},
        notice="no <net>",
    )  # fmt: skip
    page = Page()
    page.feed(html)
    assert page.open == []
    assert "<b>" not in html and "&lt;b&gt;&amp;" in html and "a&amp;b.pt" in html and "no &lt;net&gt;" in html
    assert page.titles == [
        "p = 15.300%, 153% of uniform, drawn as number 2",
        "p = 2.000%, 20% of uniform",
        "never masked",
        "p = 90.000%, 900% of uniform, encoder’s loss 5.25 nats",
        "p = 10.000%, 100% of uniform",
    ]
    assert page.marked == 2  # one in the legend
    for outside in ("http", "src=", "<script", "url(", "@import"):
        assert outside not in html
    assert html.count('class="w"') == 4 and html.count("<p>") == 2
    assert 'type="checkbox" id="numbers"' in html and html.count('<span class="n">') == 4
    assert re.search(r'ink<span class="n">153</span></mark><span class="t"', html), "no space inside a word"
    assert 'name="viewport"' in html and '<html lang="en">' in html


def in_256(value: float) -> int | None:
    """The colour of a terminal that has 256."""
    return Color.parse(colour_of(value)).downgrade(ColorSystem.EIGHT_BIT).number


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_grow_darker_and_stay_readable():
    values = [value for value, _ in TIMES_UNIFORM]
    assert scale(1.0) == 0.5 and scale(0.0) == scale(1 / 8) == 0 and scale(8.0) == scale(100.0) == 1
    assert scale(2.0) == pytest.approx(2 / 3)
    lights = [luminance(colour_of(value)) for value in values]
    assert lights == sorted(lights, reverse=True) and len(set(lights)) == len(lights)
    text = luminance("#111111")
    assert min((light + 0.05) / (text + 0.05) for light in lights) > 7, "WCAG AAA"
    assert len({in_256(value) for value in values}) == len(values)


def test_rounds_of_the_loss_cover_every_position(hub, special, monkeypatch):
    seen = []
    plain = shown.covering_masks
    monkeypatch.setattr(shown, "covering_masks", lambda *args, **rest: seen.append(rest) or plain(*args, **rest))
    list(show_masks(hub, cut_blocks(hub, ["the cats sat"], 9), special, law="oracle", mask_prob=0.5))
    assert seen[0]["num_rounds"] == 4
