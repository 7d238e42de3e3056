"""What stock fairseq lacks on today's Python and PyTorch, mended from the outside.

fairseq is never edited. Each fix is one small documented function of this package; it wraps one function or
class of fairseq, leaves everything alone that already works, and may be called any number of times.

| file | what it mends |
|---|---|
| checkpoints.py | loading under weights_only, refusing checkpoints that run code, atomic copies |
| distributed.py | several processes on CPU, torchrun, DDP without a GPU |
| environment.py | NumPy names that are gone, PyPI's unrelated ``apex``, a torchaudio that does not load |
| errors.py | a ``UserError`` ends the program with one line instead of a traceback, on every rank |
| launch.py | the one wrapper around ``call_main`` through which every fairseq command starts its work |
| options.py | ``--bf16`` on machines that are no TPU; which options were typed |
| runs.py | what one run leaves to the next: its best score, its reading thread; a finished run stays so |
"""

from fairseq_masking.compat import (
    checkpoints,
    distributed,
    environment,
    errors,
    launch,
    options,
    runs,
)
from fairseq_masking.compat.runs import reset_process_state

__all__ = ["apply", "reset_process_state"]


def apply() -> None:
    """Applies every fix. Idempotent; ``registration`` calls it before it registers anything."""
    environment.restore_numpy_compat()
    environment.warn_about_wrong_apex()
    environment.hide_broken_torchaudio()
    checkpoints.allow_safe_globals()
    checkpoints.guard_checkpoint_loading()
    checkpoints.allow_broadcast_of_checkpoints()
    checkpoints.copy_checkpoints_atomically()
    checkpoints.remove_leftover_temporaries()
    options.keep_bf16_off_the_tpu()
    distributed.wrap_cpu_models_without_device_ids()
    distributed.gather_lists_without_cuda()
    runs.stop_reading_ahead_at_exit()
    launch.wrap_call_main()
    errors.show_user_errors_outside_of_call_main()
    errors.show_user_errors_of_hydra_programs()
