"""The HTTP API beside the page: `/compare` and `/models`."""

import gradio as gr

from .. import comparison as cmp
from ..checkpoints import Library
from ..pdes.base import InputError
from .compare import COMPUTE


def add_api(library: Library) -> None:
    """Adds the endpoints inside an open `gr.Blocks` context. Bad input is answered with one sentence."""

    def compare(
        pde: str,
        methods: list[str],
        steps: int = 10,
        n: int = 4,
        seed: int = 0,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float | None = None,
    ) -> dict:
        """Samples `n` fields with every method from the same noise and measures them: rows, floors, sentence, settings.
        The seed may be text (seeds reach 2^63 - 1); empty schedule values mean the checkpoint's own."""
        try:
            schedule = {"sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho}
            return cmp.last(cmp.compare(library, pde, methods, steps, n, seed, **schedule)).to_dict()
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def models() -> list[dict]:
        """The checkpoints on this server: name, file, SHA-256, size, PDE, resolution, method, parent, figures."""
        try:
            return library.manifest()
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    gr.api(compare, api_name="compare", **COMPUTE)
    gr.api(models, api_name="models")
