"""Makes `capacity_gap_pilot`, a package of scripts/, importable as the script itself sees it."""

import sys
from pathlib import Path

SCRIPTS = str(Path(__file__).parents[3] / "scripts")
if SCRIPTS not in sys.path:
    sys.path.append(SCRIPTS)
