"""Kernels compile for real GPUs, which needs none: what the interpreter does not check."""

import subprocess
import sys

import pytest
from commands import PACKAGE

# The package without what it imports of fairseq.
PROGRAM = f"""
import sys, types
package = sys.modules["fairseq_masking"] = types.ModuleType("fairseq_masking")
package.__path__ = [{str(PACKAGE)!r}]
"""
PROGRAM += """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fairseq_masking.methods.amos.gumbel_mixture import triton_rows as mixture
from fairseq_masking.ops.linear_cross_entropy import triton_rows as loss

def compile(kernel, capability, dtype, constants):
    names = kernel.arg_names
    fixed = {name: "*i64" for name in ("targets", "predictions", "tokens")} | {"keys": "*i32"}
    fixed |= {"logits_stride": "i32", "noise_stride": "i32", "inverse_temperature": "fp32"}
    low = {name: f"*{dtype}" for name in ("out", "logits", "bias", "grad")}
    signature = {
        name: "constexpr" if name in constants else (fixed | low).get(name, "*fp32") for name in names
    }
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name][0] in "*i"},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})

for capability, dtype in ((80, "fp16"), (90, "bf16"), (90, "fp32")):
    constants = {"HAS_BIAS": True, "BLOCK": 2048}
    columns = {"NUM_COLUMNS": 50265}
    for kernel, more in (
        (loss._statistics_kernel, columns),
        (loss._gradient_kernel, {}),
        (mixture._sample_kernel, columns | {"HAS_NOISE": False}),
        (mixture._gradient_kernel, columns | {"HAS_NOISE": False}),
        (mixture._gradient_kernel, columns | {"HAS_NOISE": True}),
    ):
        ptx = compile(kernel, capability, dtype, constants | more).asm["ptx"]
        print(kernel.__name__, capability, dtype, len(re.findall(r"ld.global\\S*v4", ptx)))
"""


def test_kernels_compile_with_wide_loads(tmp_path):
    """Rows of a vocabulary of 50,265, whose logits and bias are still read 16 bytes at a time."""
    pytest.importorskip("triton")
    environment = {"PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert len(lines) == 15
    assert all(int(wide) >= 2 for *_, wide in lines), result.stdout
