"""The quickstart's scripts can be imported as they import each other."""

import sys

from commands import ROOT

sys.path.insert(0, str(ROOT / "scripts/quickstart"))
