"""The HTTP API beside the page: `/compare` and `/models`."""

import gradio as gr

from .. import comparison as cmp
from ..pdes.base import InputError
from . import gpu
from .compare import COMPUTE
from .lane import Lanes
from .models_table import entries
from .own import Visitors


def add_api(visitors: Visitors, lanes: Lanes) -> None:
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
        resolution: int | None = None,
        request: gr.Request = None,
    ) -> dict:
        """Samples `n` fields with every method from the same noise and measures them: rows, floors, sentence, settings.
        The seed may be text (seeds reach 2^63 - 1); empty schedule values mean the checkpoint's own, and without a
        resolution it is 128 where a GPU samples and there are such checkpoints, else 64."""
        try:
            schedule = {"sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho, "resolution": resolution}
            library = visitors.library(request.session_hash)
            settings = cmp.check_settings(library, pde, methods, steps, n, seed, **schedule)
            with lanes.sampling.turn():
                return cmp.last(lanes.steps(lanes.do(lambda: gpu.run(library, settings)))).to_dict()
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def models(request: gr.Request = None) -> list[dict]:
        """The checkpoints on this server: name, file, SHA-256, size, PDE, resolution, method, parent, figures. Those
        that are not bundled say where they come from (source); of visitors' own models one's own are listed."""
        try:
            return entries(visitors, request.session_hash)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    gr.api(compare, api_name="compare", **COMPUTE)
    gr.api(models, api_name="models")
