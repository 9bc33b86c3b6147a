"""PIRF: physics-informed reward fine-tuning for diffusion models of PDE fields (arXiv 2509.20570)."""

import os

__version__ = "0.1.0"

# How long a thread of torch's that waits for the others spins before it sleeps; read once, when torch is imported. As
# long as its default says (300,000 rounds), two threads beside other work spend their time waiting for one another: ten
# steps of four Darcy samples took 16 to 30 s beside five busy processes on two cores, and take 3 to 5 s with this.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
