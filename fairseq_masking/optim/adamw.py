"""AdamW and clipping with the numbers of fairseq's ``adam`` and the speed of torch's fused kernels.

fairseq adds eps to the square root of the *uncorrected* second moment, torch (as the paper) to the corrected
one. With bias corrections ``c1 = 1 - beta1^t`` and ``c2 = 1 - beta2^t`` the step of size lr is

    fairseq   m sqrt(c2) / (c1 (sqrt(v) + eps))            = m / (c1 (sqrt(v / c2) + eps / sqrt(c2)))
    torch     m / (c1 (sqrt(v / c2) + eps_torch))

so torch's kernel called with ``eps / sqrt(c2)`` computes fairseq's update exactly. t is a Python number here,
which costs no sync. At beta2 = 0.98 fairseq's eps acts as 7 eps in the first update and as 1.08 eps in the
hundredth; gradients divided by the number of masked tokens are small enough for that to matter.

Source: Kingma & Ba 2015 (Adam); Loshchilov & Hutter 2019, Algorithm 2 (decoupled decay, here times lr).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_
from torch.optim.adamw import adamw

__all__ = ["AdamW", "chunks", "clip_grad_norm", "moment_dtype"]

# meta: tests prove there that nothing reads a value of the device.
_FUSED_DEVICES = frozenset({"cpu", "cuda", "meta"})
_HALVES = frozenset({torch.float16, torch.bfloat16})
_CHUNK_NUMEL = 1 << 24  # elements of half precision that are held in fp32 at a time: 64 MB a copy


class _Kind(NamedTuple):
    """What parameters of one kernel call have in common."""

    device: torch.device
    half: bool
    decays: bool
    num_updates: int


class AdamW(torch.optim.Optimizer):
    """fairseq's Adam (decoupled weight decay) in a few kernels for all parameters.

    Moments are fp32 whatever the parameters are; parameters in half precision are updated in fp32 and
    rounded back, as fairseq does under ``--memory-efficient-bf16``. The state is laid out as fairseq's:
    ``step`` (int), ``exp_avg``, ``exp_avg_sq``.

    Args:
        eps: added to the square root of the uncorrected second moment.
        weight_decay: ``lr * weight_decay`` of a parameter is subtracted from it.
        decay_vectors: whether parameters of one dimension (biases, LayerNorm weights) decay, too.
    """

    kept = ("step", "exp_avg", "exp_avg_sq")  # of a parameter's state in a checkpoint
    supports_memory_efficient_fp16 = True
    supports_flat_params = True
    # fairseq would put the checkpoint's CPU tensors in place of what load_state_dict has just made.
    disable_mem_eff_fp16_loading_hack = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay_vectors: bool = True,
    ) -> None:
        decay = {"weight_decay": weight_decay, "decay_vectors": decay_vectors}
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, **decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update_groups(self.param_groups)
        return loss

    def update_groups(self, groups: Iterable[dict[str, Any]]) -> None:
        for group in groups:
            kinds: dict[_Kind, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    kinds[self._count_update(parameter, group)].append(parameter)
            for kind, parameters in kinds.items():
                for chunk in chunks(parameters) if kind.half else (parameters,):
                    self._update(chunk, kind, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load this optimizer's state or that of fairseq's ``adam``.

        torch rounds the moments to the parameters' precision: here they stay in fp32.
        """
        decay_vectors = [group["decay_vectors"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, decay_vectors, strict=True):
            group["betas"] = tuple(group["betas"])
            group.setdefault("decay_vectors", own)
        indices = [index for group in state_dict["param_groups"] for index in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in zip(indices, parameters, strict=True):
            saved = state_dict["state"].get(index)
            if saved:
                like = {"device": parameter.device, "dtype": moment_dtype(parameter)}
                kept = {key: saved[key] for key in self.kept if key in saved}
                self.state[parameter] = {
                    key: int(value) if key == "step" else value.to(**like) for key, value in kept.items()
                }

    def _count_update(self, parameter: Tensor, group: dict[str, Any]) -> _Kind:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.zeros_like(parameter, dtype=moment_dtype(parameter))
        state["step"] += 1
        decays = group["decay_vectors"] or parameter.dim() > 1
        return _Kind(parameter.device, parameter.dtype in _HALVES, decays, state["step"])

    def _update(self, parameters: list[Tensor], kind: _Kind, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        fused = kind.device.type in _FUSED_DEVICES
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        updated = parameters
        if kind.half:
            updated = [parameter.float() for parameter in parameters]
            gradients = [gradient.float() for gradient in gradients]
        # Both implementations add 1; the fused one reads the number on the device, foreach on the host.
        counted_on = kind.device if fused else "cpu"
        steps = torch.full((len(parameters),), kind.num_updates - 1, dtype=torch.float32, device=counted_on)
        adamw(
            updated,
            gradients,
            [self.state[parameter]["exp_avg"] for parameter in parameters],
            [self.state[parameter]["exp_avg_sq"] for parameter in parameters],
            [],
            list(steps.unbind()),
            fused=fused,
            foreach=not fused,
            amsgrad=False,
            maximize=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"] if kind.decays else 0.0,
            eps=group["eps"] / math.sqrt(1 - beta2**kind.num_updates),
        )
        if kind.half:
            torch._foreach_copy_(parameters, updated)


def clip_grad_norm(
    parameters: Iterable[Tensor], max_norm: float, aggregate_norm_fn: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Scale gradients to a joint norm of at most ``max_norm``; return it as it was, fp32 ``[]``, unread on the device.

    fairseq's own loops over the parameters in Python unless NVIDIA's apex is installed; this is two kernels.

    Args:
        max_norm: 0 measures only.
        aggregate_norm_fn: makes the norm over all shards out of this rank's.
    """
    parameters = list(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return parameters[0].new_zeros(()) if parameters else torch.tensor(0.0)
    # torch.nn.utils.get_total_norm would sum half-precision gradients up in half precision.
    norms = torch._foreach_norm(gradients, 2, dtype=torch.float32)
    total_norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    if aggregate_norm_fn is not None:
        total_norm = aggregate_norm_fn(total_norm)
    if max_norm > 0:
        clip_grads_with_norm_(parameters, float(max_norm), total_norm)
    return total_norm


def moment_dtype(parameter: Tensor) -> torch.dtype:
    """Return the precision of a parameter's moments: at least fp32."""
    return torch.promote_types(parameter.dtype, torch.float32)


def chunks(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Parts of up to ``_CHUNK_NUMEL`` elements, or of a single larger tensor."""
    chunk: list[Tensor] = []
    numel = 0
    for parameter in parameters:
        if chunk and numel + parameter.numel() > _CHUNK_NUMEL:
            yield chunk
            chunk, numel = [], 0
        chunk.append(parameter)
        numel += parameter.numel()
    if chunk:
        yield chunk
