"""``--zero-sharding os``: each rank keeps and updates the optimizer's state of its share of the parameters.

fairseq does it by fairscale, here PyTorch's own ``ZeroRedundancyOptimizer`` does. Checkpoints are those of an
optimizer that is not sharded: they go on with another number of ranks, sharded or not.

Source: Rajbhandari et al. 2020 (1910.02054), stage 1.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from fairseq import optim
from fairseq.distributed import utils as distributed_utils
from fairseq.optim import FairseqOptimizer

from fairseq_masking.compat.patching import replaces

_SUPPORTED = ("supports_memory_efficient_fp16", "supports_step_with_scale", "supports_groups")


@replaces(optim, "shard_")
def _shard(original: Callable[..., None], optimizer: FairseqOptimizer, group: Any) -> None:
    """Any optimizer of PyTorch's kind is sharded, whether fairscale is there or not."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # 1.3 s of imports

    whole = optimizer.optimizer
    sharded: Any = ZeroRedundancyOptimizer(whole.param_groups, type(whole), process_group=group, **whole.defaults)
    for name in _SUPPORTED:  # what fairseq asks of an optimizer
        setattr(sharded, name, getattr(whole, name, False))
    sharded.supports_flat_params, sharded.disable_mem_eff_fp16_loading_hack = False, True
    # The first rank alone reads a checkpoint's state; ``load_state_dict`` keeps a rank's part of it.
    sharded.broadcast_global_state_dict = partial(distributed_utils.broadcast_object, src_rank=0, group=group)
    optimizer.optimizer = sharded
