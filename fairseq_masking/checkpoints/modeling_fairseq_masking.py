"""The encoder of fairseq_masking for transformers, in one file that needs nothing else.

``AutoModel.from_pretrained(folder, trust_remote_code=True)`` reads it where it lies beside the weights. It is
written for encoders that transformers does not have: relative positions of AMOS, or beside pre-LN layers.
Shapes: B batch, T length, D width, H heads, V vocabulary, C classes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import modeling_outputs as outputs

__all__ = [
    "FairseqMaskingConfig", "FairseqMaskingForMaskedLM", "FairseqMaskingForMultipleChoice",
    "FairseqMaskingForPreTraining", "FairseqMaskingForQuestionAnswering", "FairseqMaskingForSequenceClassification",
    "FairseqMaskingForTokenClassification", "FairseqMaskingModel",
]  # fmt: skip

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh}


class FairseqMaskingConfig(PretrainedConfig):
    """Shape and regularisation; ``max_position_embeddings`` counts positions from 0 on."""

    model_type = "fairseq_masking"

    def __init__(
        self,
        vocab_size: int = 32768,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        activation_dropout: float = 0.0,
        max_position_embeddings: int = 512,
        layer_norm_eps: float = 1e-5,
        normalize_before: bool = False,
        relative_position: str = "none",
        relative_position_buckets: int = 32,
        relative_position_max_distance: int = 128,
        classifier_activation: str = "tanh",
        classifier_dropout: float = 0.0,
        pad_token_id: int = 1,
        bos_token_id: int = 0,
        eos_token_id: int = 2,
        **more: Any,
    ) -> None:
        for name, value in dict(locals()).items():
            if name not in ("self", "more", "__class__"):
                setattr(self, name, value)
        more.update(pad_token_id=pad_token_id, bos_token_id=bos_token_id, eos_token_id=eos_token_id)
        super().__init__(**more)


def relative_buckets(length: int, config: Any, device: torch.device) -> Tensor:
    """Return int64 ``[T, T]``: the bucket of each key's place as seen from each query's.

    ``t5``: one half of the buckets for keys to the left, one for keys to the right (Raffel et al. 2020).
    ``amos``: signed buckets of the released AMOS checkpoints, 0 being the smallest of all positions.
    """
    half = config.relative_position_buckets // 2
    exact = half // 2
    longest = config.relative_position_max_distance

    def t5(offset: Tensor) -> Tensor:
        distance = offset.abs()
        scale = (half - exact) / math.log(longest / exact)
        far = exact + ((distance.clamp(min=1).double() / exact).log() * scale + 1e-9).long()
        within = torch.where(distance < exact, distance, far.clamp(max=half - 1))
        return within + half * (offset > 0)

    def amos(offset: Tensor) -> Tensor:
        distance = offset.abs()
        growth = (distance.clamp(min=1).double() / exact).log() / math.log((longest - 1) / exact)
        far = exact + torch.ceil(growth * (half - 1 - exact)).long()
        return torch.where(distance < exact, distance, far.clamp(max=half - 1)) * offset.sign()

    places = torch.arange(length, device=device)
    offset = places[None, :] - places[:, None]
    if config.relative_position == "t5":
        return t5(offset)
    return amos(offset) - amos(torch.arange(1 - config.max_position_embeddings, 1, device=device)).min()


class _Attention(nn.Module):
    def __init__(self, config: FairseqMaskingConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.in_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_BTD: Tensor, bias: Tensor | None, with_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return what was attended to ``[B, T, D]``, and its weights ``[B, H, T, T]`` if they are wanted."""
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.in_proj(hidden_BTD).chunk(3, dim=-1)
        )
        dropout, weights = self.dropout if self.training else 0.0, None
        if with_weights:
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
            if bias is not None:
                scores = scores.masked_fill(~bias, float("-inf")) if bias.dtype == torch.bool else scores + bias
            weights = scores.softmax(-1)
            attended = F.dropout(weights, dropout) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        # a copy of its own: what torch.onnx.export puts in place of fused attention has other strides
        attended = attended.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        return self.out_proj(attended.flatten(2)), weights


class _Layer(nn.Module):
    def __init__(self, config: FairseqMaskingConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.normalize_before = config.normalize_before
        self.activation: Callable[[Tensor], Tensor] = _ACTIVATIONS[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.self_attn = _Attention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.final_layer_norm = nn.LayerNorm(width, eps)

    def forward(self, hidden: Tensor, bias: Tensor | None, with_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        if self.normalize_before:
            attended, weights = self.self_attn(self.self_attn_layer_norm(hidden), bias, with_weights)
            hidden = hidden + self.dropout(attended)
            return hidden + self.dropout(self._inner(self.final_layer_norm(hidden))), weights
        attended, weights = self.self_attn(hidden, bias, with_weights)
        hidden = self.self_attn_layer_norm(hidden + self.dropout(attended))
        return self.final_layer_norm(hidden + self.dropout(self._inner(hidden))), weights

    def _inner(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.activation_dropout(self.activation(self.fc1(hidden))))


class FairseqMaskingPreTrainedModel(PreTrainedModel):
    """What transformers asks of all models with this config, and what those with a head share.

    These have an ``encoder``, and make a head with its ``logits``, ``loss`` and ``output_class``.
    """

    create: Callable[[FairseqMaskingConfig], None]
    encoder: Any
    output_class: Any
    logits: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]

    config_class = FairseqMaskingConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: FairseqMaskingConfig) -> None:
        super().__init__(config)
        if not isinstance(self, FairseqMaskingModel):
            self.encoder = FairseqMaskingModel(config)
        self.create(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return the head's logits, and the loss where there are ``labels``."""
        encoded = self.encoder(input_ids, attention_mask, return_dict=True, **options)
        logits = self.logits(encoded.last_hidden_state)
        loss = None if labels is None else self.loss(logits.float(), labels)
        return self._output(encoded, return_dict, loss=loss, logits=logits)

    def _output(self, encoded: Any, return_dict: bool | None, **found: Any) -> Any:
        states = {"hidden_states": encoded.hidden_states, "attentions": encoded.attentions}
        return self._finished(self.output_class(**found, **states), return_dict)

    def _finished(self, output: Any, return_dict: bool | None) -> Any:
        """Return the output, or its tuple where the call or the config wants that."""
        wanted = self.config.return_dict if return_dict is None else return_dict
        return output if wanted else output.to_tuple()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class FairseqMaskingModel(FairseqMaskingPreTrainedModel):
    """Token and absolute position embeddings, LayerNorm, layers; relative positions where it has them."""

    def create(self, config: FairseqMaskingConfig) -> None:
        width, eps = config.hidden_size, config.layer_norm_eps
        self.embed_tokens = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, width)
        self.layernorm_embedding = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.layer_norm = nn.LayerNorm(width, eps) if config.normalize_before else None
        table = config.relative_position_buckets, config.num_attention_heads
        self.relative_position = None if config.relative_position == "none" else nn.Embedding(*table)
        self.gradient_checkpointing = False

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: Any) -> None:
        self.embed_tokens = value

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """Encode ``input_ids`` ``[B, T]``; 0 in ``attention_mask`` marks padding, at the end of rows."""
        with_weights = bool(self.config.output_attentions if output_attentions is None else output_attentions)
        if with_weights and self.config._attn_implementation != "eager":
            raise ValueError(
                "fused attention never holds its weights: leave output_attentions out, or load the model with"
                " attn_implementation='eager'"
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        length = embedded.shape[1]
        hidden = self.dropout(self.layernorm_embedding(embedded + self.embed_positions.weight[:length]))
        bias = self._bias(length, attention_mask, hidden)
        states, attentions = [hidden], []
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                hidden, weights = self._gradient_checkpointing_func(layer.__call__, states[-1], bias, with_weights)
            else:
                hidden, weights = layer(states[-1], bias, with_weights)
            states.append(hidden)
            attentions.append(weights)
        if self.layer_norm is not None:
            states[-1] = self.layer_norm(states[-1])
        output = outputs.BaseModelOutput(
            last_hidden_state=states[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if with_weights else None,
        )
        return self._finished(output, return_dict)

    def _bias(self, length: int, attention_mask: Tensor | None, hidden: Tensor) -> Tensor | None:
        visible = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        if self.relative_position is None:
            return visible
        buckets = relative_buckets(length, self.config, hidden.device)
        bias = self.relative_position(buckets).permute(2, 0, 1)[None].to(hidden.dtype)
        return bias if visible is None else bias.masked_fill(~visible, float("-inf"))


class _LMHead(nn.Module):
    def __init__(self, config: FairseqMaskingConfig) -> None:
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = _ACTIVATIONS[config.hidden_act]
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, embedding_VD: Tensor) -> Tensor:
        return F.linear(self.layer_norm(self.activation(self.dense(hidden))), embedding_VD, self.bias)


class FairseqMaskingForMaskedLM(FairseqMaskingPreTrainedModel):
    """Predicts masked tokens; the last layer is the token embedding."""

    output_class = outputs.MaskedLMOutput

    def create(self, config: FairseqMaskingConfig) -> None:
        self.lm_head = _LMHead(config)

    def get_output_embeddings(self) -> nn.Module:
        return self.encoder.embed_tokens

    def set_output_embeddings(self, value: Any) -> None:
        self.encoder.embed_tokens = value

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *more: Any, **options: Any) -> Any:
        """Resize the token embedding and with it the head's bias, which is 0 for new tokens."""
        embedding = super().resize_token_embeddings(new_num_tokens, *more, **options)
        bias = self.lm_head.bias.data[: embedding.num_embeddings]
        self.lm_head.bias = nn.Parameter(F.pad(bias, (0, embedding.num_embeddings - len(bias))))
        return embedding

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return those of the vocabulary, ``[B, T, V]``."""
        return self.lm_head(hidden_BTD, self.encoder.embed_tokens.weight)

    def loss(self, logits_BTV: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy; ``labels`` is -100 where nothing is to be predicted."""
        return F.cross_entropy(logits_BTV.flatten(0, 1), labels.flatten())


class FairseqMaskingForPreTraining(FairseqMaskingPreTrainedModel):
    """AMOS's discriminator: a logit a token, positive where it takes the token for the original one."""

    output_class = outputs.TokenClassifierOutput

    def create(self, config: FairseqMaskingConfig) -> None:
        self.detection_head = nn.Linear(config.hidden_size, 1)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return ``[B, T]``: positive for tokens that it takes for the original ones."""
        return self.detection_head(hidden_BTD).squeeze(-1)

    def loss(self, logits_BT: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy; ``labels`` is 1 for original tokens, -100 for those that do not count."""
        counted = labels >= 0
        return F.binary_cross_entropy_with_logits(logits_BT[counted], labels[counted].float())


class _ClassificationHead(nn.Module):
    def __init__(self, config: FairseqMaskingConfig) -> None:
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = _ACTIVATIONS[config.classifier_activation]
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels or 1)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        inner = self.activation(self.dense(self.dropout(hidden_BTD[:, 0])))
        return self.out_proj(self.dropout(inner))


class FairseqMaskingForSequenceClassification(FairseqMaskingPreTrainedModel):
    """Scores of a text, from the state of ``<s>``."""

    output_class = outputs.SequenceClassifierOutput

    def create(self, config: FairseqMaskingConfig) -> None:
        self.classifier = _ClassificationHead(config)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return scores ``[B, C]``."""
        return self.classifier(hidden_BTD)

    def loss(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        """Return that of ``config.problem_type``, or of the labels' form."""
        kind = self.config.problem_type
        if kind == "regression" or (kind is None and self.config.num_labels == 1):
            return F.mse_loss(logits_BC, labels.float().view_as(logits_BC))
        if kind == "multi_label_classification" or (kind is None and labels.is_floating_point()):
            return F.binary_cross_entropy_with_logits(logits_BC, labels.float())
        return F.cross_entropy(logits_BC, labels.view(-1))


class FairseqMaskingForTokenClassification(FairseqMaskingPreTrainedModel):
    """Scores of each token."""

    output_class = outputs.TokenClassifierOutput

    def create(self, config: FairseqMaskingConfig) -> None:
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 1)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return scores ``[B, T, C]``."""
        return self.classifier(self.dropout(hidden_BTD))

    loss = FairseqMaskingForMaskedLM.loss  # over C classes; ``labels`` is -100 for tokens that do not count


class FairseqMaskingForMultipleChoice(FairseqMaskingPreTrainedModel):
    """One score for each choice, from the state of its ``<s>``."""

    output_class = outputs.MultipleChoiceModelOutput

    def create(self, config: FairseqMaskingConfig) -> None:
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return ``[B, C]`` scores of ``input_ids`` ``[B, C, T]``."""
        embedded = options.pop("inputs_embeds", None)
        given = {"input_ids": input_ids, "inputs_embeds": embedded, "attention_mask": attention_mask}
        rows = {name: value.flatten(0, 1) for name, value in given.items() if value is not None}
        choices = next(value.shape[1] for value in given.values() if value is not None)
        encoded = self.encoder(**rows, return_dict=True, **options)
        logits = self.classifier(self.dropout(encoded.last_hidden_state[:, 0])).unflatten(0, (-1, choices)).squeeze(-1)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return self._output(encoded, return_dict, loss=loss, logits=logits)


class FairseqMaskingForQuestionAnswering(FairseqMaskingPreTrainedModel):
    """Where in a text an answer begins and ends."""

    output_class = outputs.QuestionAnsweringModelOutput

    def create(self, config: FairseqMaskingConfig) -> None:
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return the logits ``[B, T]`` of an answer's first and last token.

        ``start_positions`` and ``end_positions`` ``[B]`` beyond the text do not count.
        """
        encoded = self.encoder(input_ids, attention_mask, return_dict=True, **options)
        start_BT, end_BT = self.qa_outputs(encoded.last_hidden_state).unbind(-1)
        loss, length = None, start_BT.shape[1]
        if start_positions is not None and end_positions is not None:
            pairs = ((start_BT, start_positions), (end_BT, end_positions))
            places = [(logits_BT.float(), place.view(-1).clamp(0, length)) for logits_BT, place in pairs]
            loss = sum(F.cross_entropy(*place, ignore_index=length) for place in places) / 2
        return self._output(encoded, return_dict, loss=loss, start_logits=start_BT, end_logits=end_BT)
