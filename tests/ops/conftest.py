"""Kernels on a CPU: they are defined under Triton's interpreter, whatever test comes first."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Define the kernels while TRITON_INTERPRET is set, without leaving it to other tests."""
    if config.getoption("--device") == "cpu":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            try:
                import triton  # noqa: F401
            except ImportError:
                return
            import fairseq_masking.ops.triton.linear_cross_entropy_rows  # noqa: F401


@pytest.fixture(params=["torch", "triton"])
def impl(request: pytest.FixtureRequest, device, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each implementation; Triton's runs in its interpreter where the device is a CPU."""
    if request.param == "triton":
        pytest.importorskip("triton")
        if device.type == "cpu":
            monkeypatch.setenv("TRITON_INTERPRET", "1")
    return request.param
