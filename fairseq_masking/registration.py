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
import fairseq_masking.optim.sharded  # noqa: E402
import fairseq_masking.tasks  # noqa: E402
import fairseq_masking.finetuning.criterion  # noqa: E402
import fairseq_masking.finetuning.pools  # noqa: E402
import fairseq_masking.finetuning.squad.criterion  # noqa: E402
import fairseq_masking.finetuning.squad.task  # noqa: E402, F401
from fairseq_masking.checkpoints.hub import HubInterface  # noqa: E402
from fairseq_masking.checkpoints.init_from import resolve_shape  # noqa: E402
from fairseq_masking.checkpoints.start import check_start  # noqa: E402
from fairseq_masking.compat.launch import before_start  # noqa: E402
from fairseq_masking.compat.progress import begin_quietly  # noqa: E402
from fairseq_masking.compat.ranges import check_ranges  # noqa: E402
from fairseq_masking.methods.base.encoder_model import EncoderModel  # noqa: E402
from fairseq_masking.methods.base.layer_lr import check_optimizer  # noqa: E402
from fairseq_masking.optim.muon import check_whole_matrices  # noqa: E402
from fairseq_masking.tasks.global_batch import set_global_batch  # noqa: E402

EncoderModel.loader = HubInterface.from_pretrained  # a method knows nothing of checkpoints and tokenisers
before_start(begin_quietly, check_ranges, set_global_batch, check_start)
before_start(check_optimizer, resolve_shape, check_whole_matrices)
