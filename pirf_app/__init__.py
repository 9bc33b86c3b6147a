"""PIRF: physics-informed reward fine-tuning for diffusion models of PDE fields (arXiv 2509.20570)."""

__version__ = "0.1.0"
