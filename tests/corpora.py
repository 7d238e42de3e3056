"""Small texts and tokeniser files to test with."""

import random
from pathlib import Path

GPT2_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "gpt2_bpe"

_WORDS = """
the a of and to in on under house river café naïve winter summer stone light walked found never always
engineers measured 1984 3.5 Dr. London (quietly) it's “quoted” state-of-the-art unbelievable 字 tokens
""".split()  # noqa: SIM905
WORDPIECES = (
    ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]"]
    + list("abcdefghijklmnopqrstuvwxyz0123456789.,()'-ïé")
    + [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789é"]
    + ["the", "river", "walk", "##ed", "##able", "house"]
)


def make_lines(number: int, seed: int = 0) -> list[str]:
    """Lines of 5 to 14 words, the same for the same seed."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(_WORDS, k=rng.randint(5, 14))) + "." for _ in range(number)]
