"""Under another task than pre-training, a model is its encoder with heads, whatever trained it."""

from argparse import Namespace

import pytest
import small_amos
import small_map_net
import small_three_ml
import torch
from small_batches import dictionary, pretraining_task

from fairseq_masking.errors import UserError
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel

OTHER_TASK = Namespace(source_dictionary=dictionary())


def mlm(device):
    cfg = MLMConfig(**{name: small_map_net.SHAPE[name] for name in small_map_net.SHAPE if "encoder" in name})
    return MLMModel.build_model(cfg, pretraining_task()).to(device)


PRETRAINED = {
    "mlm": mlm,
    "map_net": small_map_net.build,
    "amos": small_amos.build,
    "three_ml self": lambda device: small_three_ml.build(device, "self", double=False),
    "three_ml cross": lambda device: small_three_ml.build(device, "cross", double=False),
}


@pytest.mark.parametrize("method", PRETRAINED)
def test_only_the_encoder_is_built_and_loaded(method, device):
    pretrained = PRETRAINED[method](device).eval()
    tuned = type(pretrained).build_model(pretrained.cfg, OTHER_TASK).to(device).eval()
    tuned.register_classification_head("topic", num_classes=3)
    tuned.load_state_dict(pretrained.state_dict())
    assert {name.split(".")[0] for name in tuned.state_dict()} == {"encoder", "classification_heads"}
    assert {name for name in pretrained.state_dict() if not name.startswith("encoder.")}
    tokens = torch.arange(4, 40, device=device).view(3, 12)
    features = pretrained(tokens, features_only=True)[0]
    assert torch.equal(tuned(tokens, features_only=True)[0], features)
    scores = tuned(tokens, features_only=True, classification_head_name="topic")[0]
    scores.sum().backward()
    assert scores.shape == (3, 3) and all(parameter.grad is not None for parameter in tuned.parameters())


@pytest.mark.parametrize("method", PRETRAINED)
def test_it_says_that_it_cannot_predict_tokens(method, device):
    pretrained = PRETRAINED[method](device)
    tuned = type(pretrained).build_model(pretrained.cfg, OTHER_TASK).to(device)
    with pytest.raises(UserError, match="only with --task masked_pretraining"):
        tuned(torch.arange(4, 40, device=device).view(3, 12))


def test_another_encoder_is_still_refused(device):
    pretrained = PRETRAINED["three_ml self"](device)
    shape = {**vars(pretrained.cfg), "encoder_layers": 1}
    tuned = type(pretrained).build_model(type(pretrained.cfg)(**shape), OTHER_TASK)
    with pytest.raises(UserError, match="is of another model"):
        tuned.load_state_dict(pretrained.state_dict())


def test_a_head_of_other_classes_is_explained(device):
    models = [MLMModel.build_model(mlm(device).cfg, OTHER_TASK) for _ in range(2)]
    for model, classes in zip(models, (3, 2), strict=True):
        model.register_classification_head("topic", num_classes=classes)
    with pytest.raises(UserError, match="is \\[3, 32\\], the model's \\[2, 32\\]: give its --num-classes, or start"):
        models[1].load_state_dict(models[0].state_dict())
