"""An AMOS of a few thousand parameters, batches for it, and AMOS once more: naive, from its equations.

The reference shares no code with the package: it reads a model's parameters by name, computes each row by
itself and holds every [N, V], and its gradients are autograd's through torch's own Gumbel-softmax.
"""

from argparse import Namespace
from typing import NamedTuple

import small_batches
import torch
import torch.nn.functional as F
from small_batches import NUM_SYMBOLS, pretraining_task
from torch import Tensor

from fairseq_masking.methods.amos.criterion import AmosCriterion, AmosCriterionConfig
from fairseq_masking.methods.amos.model import AmosConfig, AmosModel

SHAPE = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4}
ALL_MASK = {"leave_unmasked_prob": 0.0, "random_token_prob": 0.0}


def build(device, *, double: bool = False, **options) -> AmosModel:
    """Without dropout, away from the initial zeros and ones, so that every parameter matters."""
    torch.manual_seed(0)
    fixed = {"dropout": 0.0, "attention_dropout": 0.0, "max_positions": 32, "max_update": 30, "seed": 1}
    cfg = AmosConfig(**{**fixed, "generator_layers": [1, 2, 3], **SHAPE, **options})
    model = AmosModel.build_model(cfg, pretraining_task()).to(device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_((1.0 if "mixture" in name else 0.1) * torch.randn_like(parameter))
    return model.double() if double else model


def criterion_of(**options) -> AmosCriterion:
    return AmosCriterion(AmosCriterionConfig(**options), Namespace())


def batch(device, lengths=(20, 20, 20), *, mask_prob=0.3, noise_seed=1, specials_inside=True, **options):
    """``small_batches.batch``, all masked tokens as [MASK], with this ``noise_seed``."""
    options = {"mask_prob": mask_prob, "specials_inside": specials_inside, **ALL_MASK, **options}
    sample = small_batches.batch(device, lengths, **options)
    sample["net_input"]["shape"]["noise_seed"] = noise_seed
    return sample


def gumbel_noise(model: AmosModel, sample: dict, seed: int) -> Tensor:
    """The noise ``[N, V]`` that ``F.gumbel_softmax`` draws after ``torch.manual_seed(seed)``."""
    torch.manual_seed(seed)
    num_masked = len(sample["net_input"]["positions"])
    like = model.encoder.embed_tokens.weight.new_empty(num_masked, NUM_SYMBOLS)
    return -torch.empty_like(like).exponential_().log()


class Naive(NamedTuple):
    """Named as in ``AmosOutput``; the discriminator's losses and logits stand one after the other."""

    losses_KN: Tensor
    predictions_KN: Tensor
    weights_NK: Tensor
    sampled_N: Tensor
    detection_losses: Tensor
    detection_logits: Tensor
    loss: Tensor


class Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied: the layer that reverses."""

    @staticmethod
    def forward(ctx, values, scale):
        ctx.scale = scale
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.scale * gradient, None


def naive_amos(model: AmosModel, sample: dict, *, seed: int, given=None, discriminator_weight=50.0) -> Naive:
    """Eq. 1 to 4 and the objective, with the noise of ``gumbel_noise(..., seed)``.

    Args:
        given: weights of the depths that are not learned.
    """
    cfg, weights, net_input = model.cfg, dict(model.named_parameters()), sample["net_input"]
    embedding, head_bias = weights["encoder.embed_tokens.weight"], weights["generator.lm_head.bias"]
    depths = cfg.separate_generators or cfg.generator_layers
    width = net_input["src_tokens"].shape[1]
    rows, columns, features = [], [], [[] for _ in depths]
    for row, tokens in enumerate(net_input["src_tokens"]):
        length, start = int(net_input["src_lengths"][row]), int(net_input["num_masked"][:row].sum())
        masked = range(start, start + int(net_input["num_masked"][row]))
        rows.append(tokens[:length])
        columns.append([int(net_input["positions"][number]) - row * width for number in masked])
        corrupted = tokens[:length].clone()
        for number, column in zip(masked, columns[-1], strict=True):
            corrupted[column] = net_input["replacements"][number]
        for index, depth in enumerate(depths):
            # Each depth from the embedding on: what another head may not teach is detached on the way.
            stops = () if cfg.separate_generators or cfg.no_generator_stop_grad else depths[:index]
            network = f"generator.stacks.{index if cfg.separate_generators else 0}"
            states = transformer(model, network, embedding[corrupted], depth, stops)
            features[index].append(states[columns[-1]])

    # Eq. 2: one head for all depths.
    f = [torch.cat(parts) for parts in features]
    hidden = [
        normalize(weights, "generator.lm_head.layer_norm", gelu(linear(weights, "generator.lm_head.dense", x)))
        for x in f
    ]
    targets = torch.cat([row[own] for row, own in zip(rows, columns, strict=True)])
    logits = [h @ embedding.T + head_bias for h in hidden]
    losses = torch.stack([-x.log_softmax(-1)[torch.arange(len(targets)), targets] for x in logits])

    # Eq. 3, and the sample: reversed on its way to the mixture, the embedding's row learns as it is.
    if given is None:
        gamma = torch.stack([x @ weights["mixture.score.weight"][0] for x in f], dim=1).softmax(1)
    else:
        gamma = torch.tensor(given, dtype=embedding.dtype).to(embedding.device).expand(len(targets), -1)
    mixed = sum(gamma[:, [k]] * Scaled.apply(h, cfg.adversarial_mlm_scale) for k, h in enumerate(hidden))
    torch.manual_seed(seed)
    sampled = F.gumbel_softmax(
        mixed @ embedding.detach().T + head_bias.detach(), tau=cfg.gumbel_temperature, hard=True
    )
    embedded = Scaled.apply(sampled, cfg.adversarial_scale) @ embedding

    # Eq. 1, over every token of the text.
    detection_losses, detection_logits, seen = [], [], 0
    for tokens, own in zip(rows, columns, strict=True):
        read, read_tokens = list(embedding[tokens]), tokens.clone()
        for column in own:
            read[column], read_tokens[column] = embedded[seen], sampled[seen].argmax()
            seen += 1
        states = transformer(model, "encoder", torch.stack(read), cfg.encoder_layers, ())
        scores = linear(weights, "detection_head", states)[:, 0]
        p = 1 / (1 + (-scores).exp())
        detection_losses.append(-torch.where(read_tokens == tokens, p, 1 - p).log())
        detection_logits.append(scores)
    found, num_masked = torch.cat(detection_losses), len(targets)
    return Naive(
        losses,
        torch.stack([x.argmax(-1) for x in logits]),
        gamma,
        sampled.argmax(-1),
        found,
        torch.cat(detection_logits),
        losses.sum() + discriminator_weight * found.mean() * num_masked,
    )


def transformer(model, network, embedded_TD, num_layers, stops):
    """The states of one sequence after ``num_layers``; detached after each layer in ``stops``."""
    weights, length = dict(model.named_parameters()), len(embedded_TD)
    heads, before = model.cfg.encoder_attention_heads, f"{network}.layer_norm.weight" in weights
    hidden = embedded_TD + weights[f"{network}.embed_positions.weight"][:length]
    hidden = normalize(weights, f"{network}.layernorm_embedding", hidden)
    bias = 0.0
    if f"{network}.relative_position.weight" in weights:
        of_offsets, places = model.encoder.relative_position.buckets_O, torch.arange(length)
        buckets = of_offsets[places[None, :] - places[:, None] + len(of_offsets) // 2]
        bias = weights[f"{network}.relative_position.weight"][buckets].permute(2, 0, 1)
    for layer in range(num_layers):
        name = f"{network}.layers.{layer}"

        def attend(x, name=name):
            parts = linear(weights, f"{name}.self_attn.in_proj", x).chunk(3, dim=1)
            query, key, value = (part.view(length, heads, -1).transpose(0, 1) for part in parts)
            scores = query @ key.transpose(1, 2) / query.shape[2] ** 0.5 + bias
            mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(length, -1)
            return linear(weights, f"{name}.self_attn.out_proj", mixed)

        def feed_forward(x, name=name):
            return linear(weights, f"{name}.fc2", gelu(linear(weights, f"{name}.fc1", x)))

        for norm, part in (("self_attn_layer_norm", attend), ("final_layer_norm", feed_forward)):
            if before:
                hidden = hidden + part(normalize(weights, f"{name}.{norm}", hidden))
            else:
                hidden = normalize(weights, f"{name}.{norm}", hidden + part(hidden))
        if layer + 1 in stops:
            hidden = hidden.detach()
    return normalize(weights, f"{network}.layer_norm", hidden) if before else hidden


def linear(weights, name, values):
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def normalize(weights, name, values):
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(values):
    return values * 0.5 * (1 + torch.erf(values / 2**0.5))
