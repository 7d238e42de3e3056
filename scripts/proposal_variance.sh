#!/usr/bin/env bash
# MAP-Net: variance of the gradient under laws of masks (2008.05333, Theorem 1 and 2); --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" proposal_variance "$@"
