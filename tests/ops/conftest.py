"""Each operation in each implementation."""

import pytest


@pytest.fixture(params=["torch", "triton"])
def impl(request: pytest.FixtureRequest, device, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each implementation; Triton's runs in its interpreter where the device is a CPU."""
    if request.param == "triton":
        pytest.importorskip("triton")
        if device.type == "cpu":
            monkeypatch.setenv("TRITON_INTERPRET", "1")
    return request.param
