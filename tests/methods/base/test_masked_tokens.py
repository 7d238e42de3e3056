"""Sums over ranks and micro-batches, read from the device at once."""

import torch

from fairseq_masking.methods.base.masked_tokens import on_host


def test_tensors_and_numbers_become_one_dict_of_numbers(device):
    logs = [
        {"loss": torch.tensor(1.5, device=device), "count": torch.tensor(2**40 + 1, device=device), "rows": 3},
        {"loss": torch.tensor(2.0, device=device), "count": torch.tensor(1, device=device), "rows": 4},
    ]
    sums = on_host(logs)
    assert sums == {"loss": 3.5, "count": 2**40 + 2, "rows": 7}
    assert not any(torch.is_tensor(value) for value in sums.values())
    assert on_host([sums]) == sums
    assert on_host([]) == {}


def test_the_device_is_asked_once(monkeypatch, device):
    waits = []
    for name in ("tolist", "item", "__float__"):
        original = getattr(torch.Tensor, name)

        def counted(self, *, original=original, name=name):
            waits.append(name)
            return original(self)

        monkeypatch.setattr(torch.Tensor, name, counted)
    on_host([{key: torch.ones((), device=device) for key in "abc"}] * 2)
    assert waits == ["tolist"]
