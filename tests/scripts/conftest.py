"""Makes the scripts importable under their names, as they see one another."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
