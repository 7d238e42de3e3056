"""The modelling file beside exported weights does what users of transformers ask of a model."""

import pytest
import torch
import torch.nn.functional as F

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "relative_position": "amos",
    "normalize_before": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture
def modeling(transformers):
    from fairseq_masking.checkpoints import modeling_fairseq_masking

    return modeling_fairseq_masking


@pytest.fixture
def tokens():
    return torch.randint(4, 40, (4, 9), generator=torch.Generator().manual_seed(0))


def build(modeling, suffix, **more):
    torch.manual_seed(0)
    config = modeling.FairseqMaskingConfig(**{**SIZES, **more})
    return getattr(modeling, f"FairseqMasking{suffix}")(config).eval()


@pytest.mark.parametrize(
    ("num_labels", "problem_type", "labels", "loss"),
    [
        (3, None, torch.tensor([0, 2, 1, 1]), F.cross_entropy),
        (3, "single_label_classification", torch.tensor([[0], [2], [1], [1]]), F.cross_entropy),
        (3, "multi_label_classification", torch.eye(4, 3).long(), F.binary_cross_entropy_with_logits),
        (3, None, torch.eye(4, 3), F.binary_cross_entropy_with_logits),
        (3, "regression", torch.randn(4, 3), F.mse_loss),
        (1, None, torch.tensor([3, 1, 0, 5]), F.mse_loss),
        (1, "regression", torch.randn(4, 1), F.mse_loss),
    ],
)
def test_the_loss_is_that_of_the_problem(modeling, tokens, num_labels, problem_type, labels, loss):
    model = build(modeling, "ForSequenceClassification", num_labels=num_labels, problem_type=problem_type)
    output = model(tokens, labels=labels)
    if loss is F.cross_entropy:
        expected = loss(output.logits, labels.flatten())
    else:
        expected = loss(output.logits, labels.float().reshape(4, num_labels))
    torch.testing.assert_close(output.loss, expected)


def test_spans_beyond_the_text_do_not_count(modeling, tokens):
    model = build(modeling, "ForQuestionAnswering")
    start, end = torch.tensor([1, 9, 0, 200]), torch.tensor([[3], [9], [0], [200]])
    output = model(tokens, start_positions=start, end_positions=end)
    losses = [
        F.cross_entropy(logits[[0, 2]], places)
        for logits, places in ((output.start_logits, torch.tensor([1, 0])), (output.end_logits, torch.tensor([3, 0])))
    ]
    torch.testing.assert_close(output.loss, sum(losses) / 2)
    assert model(tokens).loss is None


@pytest.mark.parametrize("size", [50, 30])
def test_tokens_are_added_and_taken_away(modeling, tokens, size):
    model = build(modeling, "ForMaskedLM")
    with torch.no_grad():
        model.lm_head.bias.normal_()
        before = model(tokens % 30).logits
        model.resize_token_embeddings(size)
        after = model(tokens % 30).logits
        assert after.shape[-1] == size == model.config.vocab_size
        kept = min(size, 40)
        torch.testing.assert_close(after[..., :kept], before[..., :kept])
        assert not model.lm_head.bias[kept:].any()


def test_checkpointing_changes_no_gradient(modeling, tokens):
    model = build(modeling, "ForMaskedLM").train()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        assert model.is_gradient_checkpointing == (len(gradients) == 2)
        model.gradient_checkpointing_enable()
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


@pytest.mark.parametrize(
    "suffix",
    [
        "Model",
        *(
            f"For{head}"
            for head in (
                "MaskedLM",
                "PreTraining",
                "QuestionAnswering",
                "SequenceClassification",
                "TokenClassification",
            )
        ),
    ],
)
def test_outputs_are_what_the_call_or_the_config_wants(modeling, tokens, suffix):
    model = build(modeling, suffix)
    assert model(tokens).hidden_states is None
    states = model(tokens, output_hidden_states=True).hidden_states
    assert len(states) == 3
    output = model(tokens, return_dict=False)
    assert isinstance(output, tuple) and torch.equal(output[0], model(tokens)[0])
    model.config.output_hidden_states = True
    assert torch.equal(model(tokens).hidden_states[1], states[1])
    model.config.return_dict = False
    assert isinstance(model(tokens), tuple)
    with pytest.raises(ValueError, match="leave output_attentions out"):
        model(tokens, output_attentions=True)


@pytest.mark.parametrize("shape", [{}, {"relative_position": "none", "normalize_before": False}])
def test_eager_attention_gives_its_weights_and_computes_the_same(modeling, tokens, shape):
    model, mask = build(modeling, "ForTokenClassification", num_labels=3, **shape), torch.ones(4, 9)
    mask[1, 5:] = 0
    fused = model(tokens, mask).logits
    model.config._attn_implementation = "eager"
    output = model(tokens, mask, labels=tokens % 3, output_attentions=True)
    torch.testing.assert_close(output.logits, fused)
    torch.testing.assert_close(output.loss, F.cross_entropy(fused.flatten(0, 1), (tokens % 3).flatten()))
    assert len(output.attentions) == 2 and output.attentions[0].shape == (4, 2, 9, 9)
    torch.testing.assert_close(output.attentions[1].sum(-1), torch.ones(4, 2, 9))
    assert not output.attentions[0][1, :, :, 5:].any()


def test_onnx_takes_relative_positions(modeling, tokens):
    """A view of fused attention's result did not survive what the exporter puts in its place."""
    pytest.importorskip("onnxscript", reason="pip install onnxscript")
    model = build(modeling, "ForMaskedLM", relative_position="t5")
    assert torch.onnx.export(model, (tokens, torch.ones(4, 9).long()), dynamo=True, verbose=False) is not None


def test_choices_and_output_embeddings(modeling, tokens):
    model = build(modeling, "ForMultipleChoice")
    choices = tokens.view(2, 2, 9)
    output = model(choices, torch.ones_like(choices), labels=torch.tensor([1, 0]))
    alone = model(tokens[:, None])
    torch.testing.assert_close(output.logits, alone.logits.view(2, 2))
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, torch.tensor([1, 0])))
    model = build(modeling, "ForMaskedLM")
    assert model.get_output_embeddings() is model.get_input_embeddings()


def test_sdpa_may_be_asked_for(transformers, modeling, tmp_path, tokens):
    model = build(modeling, "Model")
    model.save_pretrained(tmp_path)
    again = modeling.FairseqMaskingModel.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    assert torch.equal(again(tokens)[0], model(tokens)[0])
