"""``python -m fairseq_masking VERB``: the command ``fairseq-masking``."""

import sys

from fairseq_masking.cli.main import main

sys.exit(main())
