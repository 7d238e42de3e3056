"""Compiled training: the same numbers, one graph, and an honest way out where it does not work."""

import copy
import functools
import logging
import shutil

import pytest
import torch
from test_host_sync import SPLITS, build, prepare, update
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from fairseq_masking.errors import UserError
from fairseq_masking.methods.base.options import SIZES
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.modules import compilation
from fairseq_masking.modules.compilation import Compilation
from fairseq_masking.modules.encoder import EncoderConfig, TransformerEncoder
from fairseq_masking.modules.layer import TransformerLayer

CONFIG = EncoderConfig(
    vocab_size=50, pad_index=1, num_layers=3, embed_dim=16, ffn_dim=32, num_heads=2, max_positions=16
)


class Model(torch.nn.Module):
    """An encoder whose whole program is ``predict``."""

    def __init__(self, device: torch.device, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = TransformerEncoder(EncoderConfig(**{**vars(CONFIG), **options})).to(device).train()

    def predict(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.encoder(tokens)[-1].tanh()

    def start(self, choice: str, tokens: torch.Tensor, mode: str = "default") -> Compilation:
        def probe() -> None:
            torch.autograd.grad(self.predict(tokens).sum(), list(self.parameters()), allow_unused=True)

        started = Compilation(choice, mode)
        started.start(self, ("predict",), probe)
        return started

    def results(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        torch.manual_seed(3)
        output = self.predict(tokens)
        return [output, *torch.autograd.grad(output.sum(), list(self.parameters()))]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def tokens(device):
    return torch.randint(4, 50, (2, 8), generator=torch.Generator().manual_seed(0)).to(device)


@pytest.fixture
def traced(monkeypatch):
    """Forward and backward are traced and partitioned as for inductor, and run without a C++ compiler's minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++ on a CPU")


def test_traced_layers_compute_the_same_without_a_graph_break(tokens, device, traced):
    check_compiled("encoder", tokens, device)


@needs_compiler
def test_a_compiled_program_computes_the_same_without_a_graph_break(tokens, device):
    check_compiled("full", tokens, device, num_layers=1, checkpoint_activations=True)


def test_so_does_a_traced_program_with_relative_positions_and_norms_before(tokens, device, traced):
    check_compiled("full", tokens, device, num_layers=1, normalize_before=True, relative_position="t5")


def check_compiled(choice, tokens, device, **options):
    options = {"dropout": 0.0, "attention_dropout": 0.0, **options}
    plain, model = Model(device, **options), Model(device, **options)
    names = list(model.state_dict())
    model.start(choice, tokens)
    for expected, value in zip(plain.results(tokens), model.results(tokens), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)
    assert list(model.state_dict()) == names
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1  # three layers share one compilation


@needs_compiler
def test_checkpointed_layers_draw_the_same_dropout_again(tokens, device):
    # one process-wide cache would hide a difference between two compilations of the same code
    results = []
    for checkpointed in (False, True):
        torch._dynamo.reset()
        model = Model(device, checkpoint_activations=checkpointed)
        model.start("encoder", tokens)
        results.append(model.results(tokens))
    for expected, value in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_trying_it_out_leaves_gradients_and_random_numbers_alone(tokens, device, traced):
    model = Model(device)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    model.start("encoder", tokens)
    assert torch.equal(torch.rand(3), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_auto_leaves_a_cpu_model_alone(tokens, caplog):
    model = Model(torch.device("cpu"))
    with caplog.at_level(logging.INFO):
        model.start("auto", tokens.cpu())
    assert all(module._compiled_call_impl is None for module in model.modules())
    assert "not used, the model is on the CPU" in caplog.text


@pytest.mark.cuda
def test_auto_compiles_on_a_gpu(tokens, device):
    model = Model(device)
    model.start("auto", tokens)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.fixture
def broken_compiler(monkeypatch):
    def compiled(function, **_):
        def fail(*args, **kwargs):
            raise RuntimeError("no C++ compiler,\n  none at all")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)


@pytest.mark.parametrize("choice", ["encoder", "full"])
def test_an_explicit_choice_that_cannot_compile_is_one_line(choice, tokens, device, broken_compiler):
    with pytest.raises(UserError) as caught:
        Model(device).start(choice, tokens)
    assert str(caught.value) == (
        f"--compile {choice} does not work here (RuntimeError: no C++ compiler, none at all):"
        " use --compile auto or none"
    )


def test_auto_says_why_and_goes_on_uncompiled(tokens, device, broken_compiler, monkeypatch, caplog):
    monkeypatch.setattr(compilation, "_hindrance", lambda _: None)
    model, plain = Model(device), Model(device)
    with caplog.at_level(logging.INFO, logger=compilation.__name__):  # fairseq's import sets DEBUG for all
        started = model.start("auto", tokens)
    assert caplog.messages == [
        "torch.compile: not used, it does not work here (RuntimeError: no C++ compiler, none at all)"
    ]
    started.start(model, ("predict",), lambda: pytest.fail("tried twice"))
    for expected, value in zip(plain.results(tokens), model.results(tokens), strict=True):
        assert torch.equal(value, expected)


def test_what_fails_uncompiled_too_is_told_as_it_is(tokens, device, broken_compiler):
    model = Model(device)

    def probe() -> None:
        model.predict(tokens)
        raise UserError("the real reason")

    with pytest.raises(UserError, match=r"^the real reason$"):
        Compilation("full", "default").start(model, ("predict",), probe)
    assert model.predict(tokens).shape == (2, 8, 16)


def test_errors_of_the_user_are_not_taken_for_the_compilers(device, traced):
    with pytest.raises(UserError, match="17 tokens are more"):
        Model(device).start("encoder", torch.full((1, 17), 5, device=device))


@pytest.mark.parametrize(("choice", "mode"), [("on", "default"), ("full", "fast")])
def test_unknown_choices_are_one_line(choice, mode):
    with pytest.raises(UserError, match=r"is not a choice of torch\.compile"):
        Compilation(choice, mode)


@pytest.mark.parametrize("choice", ["none", "auto", "encoder", "full"])
def test_so_does_fine_tuning_with_padding_and_without(choice, tokens, device, traced, monkeypatch):
    """``auto`` stays as it is there, also where it could compile."""
    monkeypatch.setattr(compilation, "_hindrance", lambda _: None)
    torch.manual_seed(0)
    cfg = MLMConfig(
        **{**vars(SIZES["tiny"]), "max_positions": 16, "dropout": 0, "attention_dropout": 0}, compile=choice
    )
    model = MLMModel(cfg, vocab_size=50, pad_index=1, pretrains=False).to(device)
    model.register_classification_head("head", 3)
    plain = copy.deepcopy(model).eval()
    padded = torch.cat([tokens, tokens.new_ones(2, 2)], dim=1)
    (alone, _), (beside, _) = (plain(b, features_only=True, classification_head_name="head") for b in (tokens, padded))
    torch.testing.assert_close(beside, alone)
    for shape, batch in (({"has_padding": False}, tokens), ({"has_padding": True}, padded), (None, padded)):
        given = {} if shape is None else {"shape": shape}
        results = []
        for each in (plain, model.train()):
            for dropout in (module for module in each.modules() if isinstance(module, torch.nn.Dropout)):
                dropout.eval()
            scores, _ = each(batch, features_only=True, classification_head_name="head", **given)
            results.append([scores, *torch.autograd.grad(scores.square().sum(), list(each.parameters()))])
        for expected, value in zip(*results, strict=True):
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)
    assert (counters["stats"]["unique_graphs"] > 0) == (choice in ("encoder", "full")) and not counters["graph_break"]


@pytest.mark.parametrize(
    ("arch", "options"),
    [("mlm", ()), ("mlm", SPLITS), ("three_ml", ()), ("amos", ()), ("map_net", ())],
    ids=["mlm", "splits", "three_ml", "amos", "map_net"],
)
def test_full_batches_never_compile_again(arch, options, small_data, monkeypatch):
    """Later updates, with other masks and dropout, take the graphs of the first one; a short batch would not."""
    graphs = CompileCounter()
    monkeypatch.setattr(
        TransformerLayer, "compile", lambda self, **_: torch.nn.Module.compile(self, backend=graphs, fullgraph=True)
    )
    step = prepare(small_data, f"{arch}_tiny", "--compile", "encoder", *options)
    optimizer = build(step, torch.device("cpu"), bf16=False)
    dataset, found = step.task.dataset("train"), []
    rows = 8 // dataset.masker.num_splits
    for number in range(2):
        dataset.set_epoch(1 + number)
        starts = (rows * number, rows * (number + 1))
        samples = [dataset.collater([dataset[start + row] for row in range(rows)]) for start in starts]
        update(step, samples, optimizer, number)
        found.append(graphs.frame_count)
    assert 0 < found[0] == found[-1]
    if arch == "mlm":
        update(step, [dataset.collater([dataset[0]])], optimizer, 2)
        assert graphs.frame_count > found[0]
