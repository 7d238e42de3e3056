"""A problem so small that all masks, all K-tuples of masks and their gradients can be listed, in fp64."""

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder
from torch import Tensor, nn

from fairseq_masking.masking import MaskedItem, MaskingConfig, MaskingVocabulary
from fairseq_masking.measure.gradient_variance.gradients import MaskGradient, Measurement, select_parameters
from fairseq_masking.methods.base.masked_tokens import MaskedTokenOutput
from fairseq_masking.modules import MaskedLMHead, TransformerEncoder
from fairseq_masking.modules.encoder import EncoderConfig
from fairseq_masking.ops import corrupt_tokens, gather_positions

NUM_SYMBOLS, MASK_INDEX = 13, 12
BOS, PAD, EOS = 0, 1, 2


class TinyMLM(nn.Module):
    """``mlm`` without fairseq. It has dropout, so that a gradient in training mode is another each time."""

    output_class = MaskedTokenOutput

    def __init__(self) -> None:
        super().__init__()
        config = EncoderConfig(
            vocab_size=NUM_SYMBOLS, pad_index=PAD, num_layers=1, embed_dim=8, ffn_dim=16, num_heads=2, max_positions=64
        )
        self.encoder = TransformerEncoder(config)
        self.lm_head = MaskedLMHead(config)
        self.unused = nn.Linear(3, 2)

    def forward(
        self, src_tokens: Tensor, *, positions: Tensor, replacements: Tensor, **_: object
    ) -> MaskedTokenOutput:
        hidden = self.encoder(corrupt_tokens(src_tokens, positions, replacements))[-1]
        targets = gather_positions(src_tokens, positions)
        features = gather_positions(hidden, positions)
        return MaskedTokenOutput(*self.lm_head.losses(features, self.encoder.embed_tokens.weight, targets))

    def max_positions(self) -> int:
        return 64


class Problem(NamedTuple):
    """All masks of one sequence: ``columns_Ck``, their ``gradients_CP``, ``mean_P`` (Eq. 9), ``inner_CC``."""

    tokens_T: np.ndarray
    columns_Ck: np.ndarray
    gradients_CP: np.ndarray
    mean_P: np.ndarray
    inner_CC: np.ndarray

    def tuples(self, num_masks: int, *, disjoint: bool) -> np.ndarray:
        """All equally probable K-tuples of masks, by number: Eq. 10's law, or independent masks."""
        numbers = range(len(self.columns_Ck))
        every = np.array(list(itertools.product(numbers, repeat=num_masks)))
        if not disjoint:
            return every
        columns = self.columns_Ck[every].reshape(len(every), -1)
        distinct = np.array([len(set(row)) == len(row) for row in columns.tolist()])
        return every[distinct]

    def variance(self, gradients_NP: np.ndarray) -> float:
        """E||g - gbar||**2 over a list of equally probable gradients."""
        return float(((gradients_NP - self.mean_P) ** 2).sum(1).mean())


@pytest.fixture(scope="session")
def vocabulary() -> MaskingVocabulary:
    return MaskingVocabulary.build(NUM_SYMBOLS, special_ids=range(4), mask_index=MASK_INDEX)


@pytest.fixture(scope="session")
def tiny_model() -> TinyMLM:
    torch.manual_seed(3)
    model = TinyMLM().double()
    with torch.no_grad():  # BERT's small initial weights would make all masks nearly alike
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session")
def sequence() -> Callable[[int], np.ndarray]:
    """Builds <s> n tokens </s>."""
    return lambda n: np.concatenate(([BOS], 4 + np.arange(n) * 5 % 8, [EOS])).astype(np.int64)


@pytest.fixture(scope="session")
def measurement_of(tiny_model: TinyMLM, vocabulary: MaskingVocabulary) -> Callable[..., Measurement]:
    def build(tau: int, n: int, num_masks: int, **options: object) -> Measurement:
        config = MaskingConfig(mask_prob=tau / n, num_splits=num_masks, leave_unmasked_prob=0.0, random_token_prob=0.0)
        return Measurement(tiny_model, select_parameters(tiny_model), config, vocabulary, **options)

    return build


@pytest.fixture(scope="session")
def problem_of(tiny_model: TinyMLM, sequence: Callable[[int], np.ndarray]) -> Callable[[int, int], Problem]:
    """Lists all masks of tau of n tokens and their gradients."""

    def build(n: int, tau: int) -> Problem:
        tokens_T = sequence(n)
        columns = np.array(list(itertools.combinations(range(1, n + 1), tau)), dtype=np.int64)
        masks = MaskedItem(columns, np.zeros(tau, dtype=np.int8), np.full_like(columns, MASK_INDEX))
        gradient = MaskGradient(tiny_model, tokens_T, masks, select_parameters(tiny_model))
        gradients = np.stack([gradient(number).numpy() for number in range(len(columns))])
        return Problem(tokens_T, columns, gradients, gradients.mean(0), gradients @ gradients.T)

    return build


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """A corpus for ``TinyMLM`` in fairseq's format; beside it ``model.pt`` stands for a checkpoint."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(8)) + "<mask> 1\n")
    builder = MMapIndexedDatasetBuilder(str(folder / "train.bin"), dtype=np.uint16)
    rng = np.random.default_rng(0)
    for _ in range(20):
        builder.add_item(torch.from_numpy(np.append(rng.integers(4, 12, size=15), 2)))
    builder.finalize(str(folder / "train.idx"))
    (tmp_path / "model.pt").write_bytes(b"stands for a checkpoint")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
