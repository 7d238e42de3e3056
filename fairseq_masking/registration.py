"""All that this package registers with fairseq, in one list; importing this mends fairseq first."""

import logging

# On import fairseq recommends a package that none of this needs, among a command's own lines.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

from fairseq_masking import compat  # noqa: E402 - it imports fairseq

compat.apply()

# ruff: isort: off
import fairseq_masking.models  # noqa: E402 - these build on what compat mends
import fairseq_masking.methods.amos.criterion  # noqa: E402
import fairseq_masking.methods.fully_explored.criterion  # noqa: E402
import fairseq_masking.methods.map_net.criterion  # noqa: E402
import fairseq_masking.methods.mlm.criterion  # noqa: E402
import fairseq_masking.optim  # noqa: E402
import fairseq_masking.tasks  # noqa: E402
import fairseq_masking.finetuning.criterion  # noqa: E402
import fairseq_masking.finetuning.squad.criterion  # noqa: E402
import fairseq_masking.finetuning.squad.task  # noqa: E402, F401
from fairseq_masking.checkpoints.hub import HubInterface  # noqa: E402
from fairseq_masking.checkpoints.init_from import resolve_shape  # noqa: E402
from fairseq_masking.checkpoints.loading import keep_run_state  # noqa: E402
from fairseq_masking.checkpoints.start import check_start  # noqa: E402
from fairseq_masking.compat.launch import before_start  # noqa: E402
from fairseq_masking.compat.progress import begin_quietly  # noqa: E402
from fairseq_masking.corpus.indexed import guard_indexed_data  # noqa: E402
from fairseq_masking.methods.base.encoder_model import EncoderModel  # noqa: E402
from fairseq_masking.methods.base.layer_lr import check_optimizer  # noqa: E402
from fairseq_masking.optim.half_precision import copy_in_few_kernels  # noqa: E402
from fairseq_masking.optim.linear_schedule import tell_epoch_lengths  # noqa: E402
from fairseq_masking.optim.muon import mark_matrices_for_muon  # noqa: E402
from fairseq_masking.optim.sharded import shard_with_torch  # noqa: E402
from fairseq_masking.tasks.global_batch import set_global_batch  # noqa: E402

copy_in_few_kernels()
shard_with_torch()
guard_indexed_data()
EncoderModel.loader = HubInterface.from_pretrained  # a method knows nothing of checkpoints and tokenisers
before_start(
    begin_quietly,
    set_global_batch,
    check_start,
    check_optimizer,
    resolve_shape,
    tell_epoch_lengths,
    keep_run_state,
    mark_matrices_for_muon,
)
