"""``torch.compile`` for training: which parts of a model, when, and what happens where it does not work.

``encoder`` compiles every Transformer layer by itself: one compilation serves them all, gradients still reach
DDP layer by layer, and activation checkpointing stays outside. ``full`` compiles a model's whole tensor
program, embedding to losses, as one graph. Both compile in place, so parameters keep their names.
"""

import logging
import textwrap
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from fairseq_masking.errors import UserError
from fairseq_masking.modules.encoder import TransformerEncoder, TransformerLayer
from fairseq_masking.ops.dispatch import triton_obstacle

__all__ = ["COMPILATIONS", "COMPILE_MODES", "Compilation"]

logger = logging.getLogger(__name__)

COMPILATIONS = ("auto", "none", "encoder", "full")
# torch.compile's; the last two use CUDA graphs.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")

# Train and eval, with padding and without, fixed and varying lengths: more than dynamo's 8, and no more.
_MOST_VARIANTS = 32


class Compilation:
    """Compiles a model once, at its first training batch, when device and precision are settled."""

    def __init__(self, choice: str, mode: str) -> None:
        for value, allowed in ((choice, COMPILATIONS), (mode, COMPILE_MODES)):
            if value not in allowed:
                raise UserError(f"{value!r} is not a choice of torch.compile: {', '.join(allowed)}")
        self.choice = choice
        self.mode = mode
        self.started = False

    @property
    def possible(self) -> bool:
        """Whether this run may compile, known before its device is."""
        return self.choice != "none" and (self.choice != "auto" or torch.cuda.is_available())

    def start(self, model: nn.Module, methods: Sequence[str], probe: Callable[[], None]) -> None:
        """Compile, if that was asked for, and try it out; later calls do nothing.

        ``encoder`` or ``full`` that does not work is a ``UserError``; ``auto`` logs why and goes on without.

        Args:
            methods: names of the model's methods that take and return tensors only (``full``).
            probe: runs forward and backward once without a trace, so that both are compiled here.
        """
        if self.started:
            if self.mode != "default":
                torch.compiler.cudagraph_mark_step_begin()
            return
        self.started = True
        device = next(model.parameters()).device
        scope = self.choice
        if scope == "auto":
            if hindrance := _hindrance(device):
                logger.info("torch.compile: not used, %s", hindrance)
                return
            scope = "encoder"
        if scope == "none":
            return
        began = time.perf_counter()
        config = torch._dynamo.config
        config.cache_size_limit = max(config.cache_size_limit, _MOST_VARIANTS)
        try:
            self._compile(model, scope, methods)
            _try_out(probe, device)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever dynamo, inductor, triton or a C++ compiler may raise
            logger.debug("torch.compile: failed", exc_info=True)
            self._undo(model, methods)
            _try_out(probe, device)  # what fails without a compiler, too, has a clearer message there
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
            if self.choice != "auto":
                raise UserError(
                    f"--compile {self.choice} does not work here ({reason}): use --compile auto or none"
                ) from error
            logger.warning("torch.compile: not used, it does not work here (%s)", reason)
            return
        logger.info("torch.compile: %s compiled in %.0f s", scope, time.perf_counter() - began)

    def _compile(self, model: nn.Module, scope: str, methods: Sequence[str]) -> None:
        if scope == "encoder":
            for module in model.modules():
                if isinstance(module, TransformerLayer):
                    module.compile(fullgraph=True, mode=self.mode)
            return
        if any(
            isinstance(module, TransformerEncoder) and module.config.checkpoint_activations
            for module in model.modules()
        ):
            torch._dynamo.config.optimize_ddp = False  # its graph splitter knows no checkpointed regions
        for name in methods:
            setattr(model, name, torch.compile(getattr(model, name), fullgraph=True, mode=self.mode))

    @staticmethod
    def _undo(model: nn.Module, methods: Sequence[str]) -> None:
        for module in model.modules():
            module._compiled_call_impl = None
        for name in methods:
            vars(model).pop(name, None)


def _hindrance(device: torch.device) -> str | None:
    """Return why ``auto`` does not compile on ``device``, if so."""
    if device.type != "cuda":
        return f"the model is on the {device.type.upper()} (--compile encoder does it all the same)"
    return triton_obstacle(device)


def _try_out(probe: Callable[[], None], device: torch.device) -> None:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        probe()
