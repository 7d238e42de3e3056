"""A 3ML model of a few thousand parameters, batches for it, and 3ML once more: slow, token by token.

The reference shares no code with the package: it reads a model's parameters by name and computes with them.
"""

from typing import NamedTuple

import small_batches
import torch
from small_batches import pretraining_task
from torch import Tensor

from fairseq_masking.methods.three_ml.model import ThreeMLConfig, ThreeMLModel

SHAPE = {
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
}
STRATEGIES = {"80-10-10": (0.1, 0.1), "100-0-0": (0.0, 0.0), "80-20-0": (0.0, 0.2), "80-0-20": (0.2, 0.0)}


def build(device, attention: str = "self", *, double: bool = True, **options) -> ThreeMLModel:
    """Without dropout, away from the initial zeros and ones, so that every parameter matters."""
    torch.manual_seed(0)
    fixed = {"dropout": 0.0, "attention_dropout": 0.0, "max_positions": 32, "decoder_attention": attention}
    cfg = ThreeMLConfig(**{**fixed, **SHAPE, **options})
    model = ThreeMLModel.build_model(cfg, pretraining_task()).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double() if double else model


def batch(device, lengths=(20, 20, 20), *, mask_prob=0.4, strategy="80-10-10", specials_inside=True, **options):
    """``small_batches.batch`` with one of the paper's corruption strategies."""
    leave, random = STRATEGIES[strategy]
    return small_batches.batch(
        device,
        lengths,
        mask_prob=mask_prob,
        leave_unmasked_prob=leave,
        random_token_prob=random,
        specials_inside=specials_inside,
        **options,
    )


class Slow(NamedTuple):
    """What the reference found, one entry a masked token in the batch's order; encoder states a row."""

    losses: Tensor
    predictions: list[int]
    sources: list[str]
    encoder_states: list[dict[int, Tensor]]


def slow_three_ml(model: ThreeMLModel, net_input: dict) -> Slow:
    """3ML as the paper tells it."""
    weights = dict(model.named_parameters())
    crossing = "decoder.layers.0.cross_attn.query_proj.weight" in weights
    num_seen = 0
    losses, predictions, sources, all_states = [], [], [], []
    width = net_input["src_tokens"].shape[1]
    for row, tokens in enumerate(net_input["src_tokens"].tolist()):
        tokens = tokens[: int(net_input["src_lengths"][row])]
        masked = range(num_seen, num_seen + int(net_input["num_masked"][row]))
        num_seen += len(masked)
        columns = [int(net_input["positions"][number]) - row * width for number in masked]
        kinds = [int(net_input["kinds"][number]) for number in masked]
        written = list(tokens)
        for number, column in zip(masked, columns, strict=True):
            written[column] = int(net_input["replacements"][number])
        holes = [column for column, kind in zip(columns, kinds, strict=True) if kind == 0]

        # The encoder: only what is no [MASK], each token with the position of its original place.
        states = {}
        for column in range(len(tokens)):
            if column not in holes:
                place = weights["encoder.embed_positions.weight"][column]
                embedded = weights["encoder.embed_tokens.weight"][written[column]] + place
                states[column] = normalize(weights, "encoder.layernorm_embedding", embedded)
        for layer in range(model.cfg.encoder_layers):
            bias = None
            if "encoder.relative_position.weight" in weights:
                table, buckets = (
                    weights["encoder.relative_position.weight"],
                    model.encoder.relative_position.buckets_O,
                )
                zero = len(buckets) // 2
                bias = lambda query, key, head: table[buckets[zero + key - query], head]  # noqa: B023, E731
            states = block(weights, f"encoder.layers.{layer}", states, model.cfg.encoder_attention_heads, bias)
        if "encoder.layer_norm.weight" in weights:
            states = {c: normalize(weights, "encoder.layer_norm", state) for c, state in states.items()}
        all_states.append(states)

        # The decoder: a vector of its own for each [MASK], the encoder's states brought to its width.
        brought = states
        if "decoder.project_states.weight" in weights:
            brought = {c: linear(weights, "decoder.project_states", state) for c, state in states.items()}
        inputs = dict.fromkeys(holes, weights["decoder.mask_embedding"])
        if not crossing:
            inputs.update(brought)
        inputs = {c: vector + weights["decoder.embed_positions.weight"][c] for c, vector in inputs.items()}
        if "decoder.layernorm_embedding.weight" in weights:
            inputs = {c: normalize(weights, "decoder.layernorm_embedding", v) for c, v in inputs.items()}
        decoded = inputs
        heads = max(1, model.decoder.config.embed_dim // 64)
        for layer in range(model.cfg.decoder_layers):
            memory = brought if crossing else None
            decoded = block(weights, f"decoder.layers.{layer}", decoded, heads, memory=memory)
        if "decoder.layer_norm.weight" in weights:
            decoded = {c: normalize(weights, "decoder.layer_norm", state) for c, state in decoded.items()}

        # One prediction layer; with cross-attention the encoder's side has a dense layer of its own.
        for column, kind in zip(columns, kinds, strict=True):
            from_encoder = crossing and kind != 0
            state = states[column] if from_encoder else decoded[column]
            sources.append("encoder" if from_encoder else "decoder")
            dense = linear(weights, "lm_head.encoder_dense" if from_encoder else "lm_head.dense", state)
            features = normalize(weights, "lm_head.layer_norm", gelu(dense))
            logits = weights["encoder.embed_tokens.weight"] @ features + weights["lm_head.bias"]
            losses.append(logits.exp().sum().log() - logits[tokens[column]])
            predictions.append(int(logits.argmax()))
    return Slow(torch.stack(losses), predictions, sources, all_states)


def block(weights, name, states, num_heads, bias=None, memory=None):
    """A Transformer block over a dict of states by column; pre-LN where the encoder ends with a LayerNorm."""
    before = "encoder.layer_norm.weight" in weights

    def residual(states, norm, sublayer):
        if before:
            changed = sublayer({c: normalize(weights, f"{name}.{norm}", state) for c, state in states.items()})
            return {c: states[c] + changed[c] for c in states}
        changed = sublayer(states)
        return {c: normalize(weights, f"{name}.{norm}", states[c] + changed[c]) for c in states}

    def attend(states):
        projections = {c: linear(weights, f"{name}.self_attn.in_proj", s).chunk(3) for c, s in states.items()}
        keys = {c: (key, value) for c, (_, key, value) in projections.items()}
        queries = {c: query for c, (query, _, _) in projections.items()}
        return attention(weights, f"{name}.self_attn.out_proj", queries, keys, num_heads, bias)

    def consult(states):
        queries = {c: linear(weights, f"{name}.cross_attn.query_proj", s) for c, s in states.items()}
        keys = {c: linear(weights, f"{name}.cross_attn.key_value_proj", s).chunk(2) for c, s in memory.items()}
        return attention(weights, f"{name}.cross_attn.out_proj", queries, keys, num_heads)

    def feed_forward(states):
        inner = {c: gelu(linear(weights, f"{name}.fc1", state)) for c, state in states.items()}
        return {c: linear(weights, f"{name}.fc2", state) for c, state in inner.items()}

    if not states:
        return states
    states = residual(states, "self_attn_layer_norm", attend)
    if memory is not None:
        states = residual(states, "cross_attn_layer_norm", consult)
    return residual(states, "final_layer_norm", feed_forward)


def attention(weights, out, queries, keys, num_heads, bias=None):
    result = {}
    for column, query in queries.items():
        size = len(query) // num_heads
        parts = []
        for head in range(num_heads):
            own = slice(head * size, (head + 1) * size)
            scores = []
            for other, (key, _) in keys.items():
                score = query[own] @ key[own] / size**0.5
                scores.append(score if bias is None else score + bias(column, other, head))
            probabilities = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
            parts.append(sum(p * value[own] for p, (_, value) in zip(probabilities, keys.values(), strict=True)))
        result[column] = linear(weights, out, torch.cat(parts))
    return result


def linear(weights, name, vector):
    return weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]


def normalize(weights, name, vector):
    centred = vector - vector.mean()
    scaled = centred / (centred.square().mean() + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(vector):
    return vector * 0.5 * (1 + torch.erf(vector / 2**0.5))
