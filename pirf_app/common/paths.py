"""Where the bundled files are: in a checkout, or where an installation has put them."""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
INSTALLED = Path(sys.prefix) / "share" / "pirf_app"


def bundled_root() -> Path:
    """The folder with `checkpoints/` and `assets/`. Where neither a checkout nor an installation has them, that of a
    checkout, so that what is missing is named by where it belongs."""
    return next((root for root in (CHECKOUT, INSTALLED) if (root / "checkpoints").is_dir()), CHECKOUT)


CHECKPOINTS = bundled_root() / "checkpoints"
ASSETS = bundled_root() / "assets"
