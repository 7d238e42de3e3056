"""A finished run stays as it is: stock fairseq takes one more update each time its command is given again."""

import logging
import math
import sys
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from fairseq_masking.compat.patching import replace

__all__ = ["leave_finished_runs_alone"]

logger = logging.getLogger(__name__)

_PROGRAM = "fairseq_cli.train"


def leave_finished_runs_alone() -> None:
    """Makes fairseq's epoch end before its first update where --max-update is reached already.

    fairseq looks at --max-update after an update only, so a resumed run that was finished would go one beyond
    it and overwrite its last checkpoint. Called when a command starts: the program's module is loaded then.
    """
    main = sys.modules.get("__main__")
    is_main = getattr(getattr(main, "__spec__", None), "name", None) == _PROGRAM
    module = main if is_main else sys.modules.get(_PROGRAM)
    if module is not None:
        replace(module, "train", _train_unless_finished)


def _train_unless_finished(original: Callable[..., Any]) -> Callable[..., Any]:
    def train(cfg: DictConfig, trainer: Any, *rest: Any) -> tuple[list[float | None], bool]:
        max_update = cfg.optimization.max_update or math.inf
        if trainer.get_num_updates() >= max_update:
            logger.info("nothing to do: the run has reached --max-update %s", cfg.optimization.max_update)
            return [None], True
        return original(cfg, trainer, *rest)

    return train
