"""MAP-Net's mask proposal network: a score for every position of the clean text.

Source: 2008.05333, Section 3.3 and 4.1.1.
Shapes: B batch, T length, D width of the encoder's embedding, W width of the proposal network.
"""

import torch
from torch import Tensor, nn

from fairseq_masking.modules.encoder import EncoderConfig, LayerStack, check_length, init_bert_weights
from fairseq_masking.modules.reach import places_within, visible_keys

__all__ = ["ProposalNetwork"]


class ProposalNetwork(LayerStack):
    """A narrower Transformer on the encoder's token embeddings, ending in one score a position.

    It has no token embedding: the encoder's is passed in, and gets gradients from both. Positions and LayerNorms are
    its own; relative positions it has none. The last projection has no bias, which would cancel in the softmax.
    """

    def __init__(self, config: EncoderConfig, *, input_dim: int) -> None:
        super().__init__()
        self.project_tokens = nn.Linear(input_dim, config.embed_dim, bias=False)
        self.create_layers(config)
        self.score = nn.Linear(config.embed_dim, 1, bias=False)
        self.apply(init_bert_weights)

    def forward(
        self,
        token_embeddings_BTD: Tensor,
        maskable_BT: Tensor,
        padding_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Return log p_prop, a softmax over the maskable positions of each row, those of all its documents.

        fp32 (fp64 for fp64) ``[B, T]`` in nats, -inf where nothing may be masked. The embeddings are of clean tokens.
        """
        check_length(token_embeddings_BTD.shape[1], self.config.max_positions, "proposal network")
        places_BT = places_within(documents_BT)
        hidden = self.enter(self.project_tokens(token_embeddings_BTD), places_BT)
        reaches = self.reaches(hidden, places_BT, visible_keys(padding_BT, documents_BT))
        scores_BT = self.score(self.run_layers(hidden, reaches)[-1]).squeeze(-1)
        scores_BT = scores_BT if scores_BT.dtype == torch.float64 else scores_BT.float()
        # A finite bottom, so that a row without a maskable position gives no NaN; its exp is still 0.
        log_proposal_BT = scores_BT.masked_fill(~maskable_BT, -1e30).log_softmax(dim=1)
        return log_proposal_BT.masked_fill(~maskable_BT, -torch.inf)
