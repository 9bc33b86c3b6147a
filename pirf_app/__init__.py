"""PIRF: physics-informed reward fine-tuning for diffusion models of PDE fields (arXiv 2509.20570).

import pirf_app as pirf

model = pirf.load("darcy", "base")
fields = model.sample(n=4, steps=10, seed=0)
model = pirf.tune(model, updates=50)
model.save("mine.safetensors")
"""

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["InputError", "Model", "generate", "load", "measure", "pde_names", "residual", "solve", "tune"]

# How long a thread of torch's that waits for the others spins before it sleeps; read once, when torch is imported. As
# long as its default says (300,000 rounds), two threads beside other work spend their time waiting for one another: ten
# steps of four Darcy samples took 16 to 30 s beside five busy processes on two cores, and take 3 to 5 s with this.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# The solvers' small banded systems gain nothing from SciPy's own threads, which spin as well: beside two trainings a
# solve at 128x128 took seconds with them, and takes 20 ms without.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if TYPE_CHECKING:
    from .interface import InputError, Model, generate, load, measure, pde_names, residual, solve, tune


def __getattr__(name: str) -> Any:
    """The names above, once they are asked for: torch takes seconds to import, and not all of this app needs it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import interface

    return getattr(interface, name)
