"""What all models share: ``encoder.*`` survives pre-training, and any of them fine-tunes.

Shapes: B batch, T length, D width, C classes.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.masking import Kind
from fairseq_masking.methods.base.layer_lr import scale_learning_rates
from fairseq_masking.methods.base.options import SIZES, EncoderModelConfig, encoder_config, fill_in_missing
from fairseq_masking.modules import ClassificationHead, TransformerEncoder
from fairseq_masking.modules.compilation import Compilation
from fairseq_masking.ops import corrupt_tokens, gather_positions
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = ["EncoderModel"]

logger = logging.getLogger(__name__)


class EncoderModel(BaseFairseqModel):
    """An encoder with classification heads; a method's model adds what pre-trains it.

    A subclass sets ``output_class``, builds its other networks in ``build_pretraining`` and computes
    ``pretrain``; its ``tensor_methods`` take and return tensors only and hold all that ``pretrain`` computes,
    so that ``--compile full`` compiles them. Fine-tuned, all models are the same: encoder and heads.
    """

    output_class: ClassVar[type]
    predicts_with: ClassVar[str] = "encoder"  # what computes token_logits
    tensor_methods: ClassVar[tuple[str, ...]] = ()
    base_sizes: ClassVar[Mapping[str, Any]] = {}  # of the method's own options
    loader: ClassVar[Callable[..., nn.Module]]  # of trained models: set by registration

    def __init__(
        self,
        cfg: EncoderModelConfig,
        *,
        vocab_size: int,
        pad_index: int,
        mask_index: int | None = None,
        pretrains: bool = True,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.pretrains = pretrains
        self.pad_index = pad_index
        self.mask_index = mask_index
        self.encoder = TransformerEncoder(encoder_config(cfg, vocab_size=vocab_size, pad_index=pad_index))
        scale_learning_rates(self.encoder, cfg.encoder_layers, cfg.layer_lr_decay)
        self.classification_heads = nn.ModuleDict()
        self.compilation = Compilation(str(cfg.compile), str(cfg.compile_mode))
        if pretrains:
            self.build_pretraining(cfg)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is not compiled: a compiled method would go on computing with this model's weights."""
        compiled = (*self.tensor_methods, "encode")
        return {name: value for name, value in super().__getstate__().items() if name not in compiled}

    def build_pretraining(self, cfg: EncoderModelConfig) -> None:
        """Create the networks that only pre-training needs."""
        raise NotImplementedError

    def pretrain(self, src_tokens: Tensor, **batch: Any) -> Any:
        """Return ``output_class`` for a batch of design.md's contract."""
        raise NotImplementedError

    def padding_of(self, src_tokens: Tensor, batch: Mapping[str, Any]) -> Tensor | None:
        """Return bool ``[B, T]``, True at padding; None where the batch says that it has none."""
        return src_tokens.eq(self.pad_index) if batch.get("shape", {}).get("has_padding", True) else None

    def encode(self, tokens_BT: Tensor, padding_BT: Tensor | None) -> list[Tensor]:
        """Return the encoder's states ``[B, T, D]``: its embedding's and every layer's."""
        return self.encoder(tokens_BT, padding_BT=padding_BT).states

    def token_logits(self, src_tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return the vocabulary's logits ``[B, T, V]`` for a text with <mask>s in it.

        With ``positions``, int64 ``[N]`` (row * T + column), those there alone, ``[N, V]``.
        """
        raise NotImplementedError

    @classmethod
    def build_model(cls, cfg: EncoderModelConfig, task: Any) -> "EncoderModel":
        """Build from a config; sizes that neither an option nor ``--arch`` gave are those of ``base``.

        A task that does not say ``pretrains`` gets the encoder alone, for its heads. A checkpoint may be
        older than an option: what its config lacks gets the option's default.
        """
        defaults = {option.name: option.default for option in fields(getattr(cls, "__dataclass"))}
        fill_in_missing(cfg, {**defaults, **vars(SIZES["base"]), **cls.base_sizes})
        dictionary = task.source_dictionary
        return cls(
            cfg,
            vocab_size=len(dictionary),
            pad_index=dictionary.pad(),
            mask_index=dictionary.index(MASK_SYMBOL),
            pretrains=getattr(task, "pretrains", False),
        )

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        *,
        features_only: bool = False,
        classification_head_name: str | None = None,
        return_all_hiddens: bool = False,
        **batch: Any,
    ) -> Any:
        """Pre-train on a batch, or encode it.

        Args:
            features_only: return the last hidden states ``[B, T, D]``.
            classification_head_name: return that head's scores ``[B, C]``.
            batch: the rest of design.md's batch; encoding looks at ``shape`` alone, which may be missing.

        Returns:
            ``output_class`` for a pre-training batch; else ``(tensor, {"inner_states": ...})``, the tensor
            being scores, hidden states or, with neither asked for, the vocabulary's logits ``[B, T, V]``.
        """
        predicting = not features_only and classification_head_name is None
        if predicting and not self.pretrains:
            raise UserError(
                f"{type(self).__name__} predicts tokens only with --task masked_pretraining: under others"
                " it is the encoder with classification heads, as --task sentence_prediction needs it"
            )
        if predicting and "positions" in batch:
            if self.training:
                self.compilation.start(
                    self, self.tensor_methods, lambda: self._differentiate(self.pretrain(src_tokens, **batch))
                )
            return self.pretrain(src_tokens, **batch)
        if predicting:
            return self.token_logits(src_tokens), {"inner_states": None}
        padding = self.padding_of(src_tokens, batch)
        if self.training and not self.pretrains and self.compilation.choice != "auto":  # short runs, lengths vary
            self.compilation.start(self, ("encode",), lambda: self._differentiate(self.encode(src_tokens, padding)))
        states = self.encode(src_tokens, padding)
        extra = {"inner_states": states if return_all_hiddens else None}
        if classification_head_name is None:
            return states[-1], extra
        return self.classification_heads[classification_head_name](states[-1], padding), extra

    def mask_states(
        self, src_tokens: Tensor, *, positions: Tensor, kinds: Tensor, replacements: Tensor, **_: Any
    ) -> list[Tensor]:
        """Return the states ``[M, D]`` of the batch's [MASK]s: where they enter, and after every layer there.

        For measurements: it asks the device how many there are.
        """
        corrupted = corrupt_tokens(src_tokens, positions, replacements)
        where = positions[kinds == Kind.MASK]
        return [gather_positions(state, where) for state in self.token_states(corrupted)]

    def token_states(self, tokens_BT: Tensor) -> list[Tensor]:
        """Return the states ``[B, T, D]`` of what predicts tokens: its embedding's and every layer's."""
        return self.encode(tokens_BT, tokens_BT.eq(self.pad_index))

    def _differentiate(self, values: Iterable[Any]) -> None:
        """Compute gradients and forget them: no ``.grad`` is written and no hook of DDP runs."""
        outputs = [value for value in values if isinstance(value, Tensor)]
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        total = torch.stack([value.float().sum() for value in outputs if value.requires_grad]).sum()
        torch.autograd.grad(total, parameters, allow_unused=True)

    def max_positions(self) -> int:
        """Longest input, in tokens, special ones included."""
        return self.cfg.max_positions

    def register_classification_head(
        self, name: str, num_classes: int | None = None, inner_dim: int | None = None, **_: Any
    ) -> None:
        """Add (or replace) the head ``name`` with ``num_classes`` outputs."""
        if num_classes is None:
            raise UserError(f"classification head {name!r}: give the number of classes (--num-classes)")
        width, config = self.cfg.encoder_embed_dim, self.encoder.config
        inner_dim = inner_dim or width
        self.classification_heads[name] = ClassificationHead(
            width,
            inner_dim,
            num_classes,
            activation=str(self.cfg.pooler_activation_fn),
            dropout=self.cfg.pooler_dropout,
            pooling=str(self.cfg.pooling),
            norm=config.build_norm(width=inner_dim) if self.cfg.pooler_norm else None,
            bias=not config.no_head_bias,
        )

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Check that a checkpoint's weights fit, before PyTorch lists every tensor that does not."""
        super().upgrade_state_dict_named(state_dict, name)
        self._reconcile_heads(state_dict)
        own = self.state_dict()
        if not self.pretrains:
            for key in [key for key in state_dict if not key.startswith(("encoder.", "classification_heads."))]:
                del state_dict[key]
        if not any(key.startswith("encoder.") for key in state_dict):
            raise UserError("the checkpoint holds no 'encoder.*' weights: it is not one of fairseq_masking's")
        embedding = "encoder.embed_tokens.weight"
        if embedding in state_dict and state_dict[embedding].shape[0] != own[embedding].shape[0]:
            raise UserError(
                f"the checkpoint's embedding has {state_dict[embedding].shape[0]} rows but the dictionary has"
                f" {own[embedding].shape[0]} symbols: use the dict.txt that it was trained with"
            )
        missing, foreign = sorted(own.keys() - state_dict.keys()), sorted(state_dict.keys() - own.keys())
        if missing or foreign:
            raise UserError(
                f"the checkpoint is of another model: it lacks {_some(missing)} and has {_some(foreign)} that"
                f" {type(self).__name__} does not know; resume with its own --arch and options"
            )
        unlike = [key for key in own if own[key].shape != state_dict[key].shape]
        if unlike:
            way_out = "resume with the --arch and options it was trained with"
            if unlike[0].startswith("classification_heads."):
                way_out = "give its --num-classes, or start with --init-from, which leaves heads behind"
            raise UserError(
                f"the checkpoint's {unlike[0]} is {list(state_dict[unlike[0]].shape)}, the model's"
                f" {list(own[unlike[0]].shape)}: {way_out}"
            )

    def _reconcile_heads(self, state_dict: dict[str, Tensor]) -> None:
        """Drop heads that this model lacks; let heads that the checkpoint lacks start afresh."""
        own = {f"classification_heads.{key}": value for key, value in self.classification_heads.state_dict().items()}
        for key in [key for key in state_dict if key.startswith("classification_heads.") and key not in own]:
            logger.info("not taken from the checkpoint, as this run has no such head: %s", key)
            del state_dict[key]
        for key, value in own.items():
            state_dict.setdefault(key, value)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, checkpoint_file: str = "checkpoint_best.pt", data: str | Path | None = None
    ) -> nn.Module:
        """Load a trained model with its tokeniser as a ``HubInterface``, from the checkpoint's folder (or file).

        ``data`` is the prepared corpus it was trained on, by default the folder stored in the checkpoint.
        """
        return cls.loader(path, checkpoint_file, data)


def _some(keys: list[str]) -> str:
    if not keys:
        return "nothing"
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
