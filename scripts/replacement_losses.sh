#!/usr/bin/env bash
# How hard each depth's tokens are for AMOS's discriminator (2204.03243, Fig. 1a); --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" replacement_losses "$@"
