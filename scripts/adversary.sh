#!/usr/bin/env bash
# Does AMOS's adversary raise the discriminator's loss (2204.03243, Section 3.3)? --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" adversary "$@"
