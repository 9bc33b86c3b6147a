"""The HTTP API beside the page: `/compare`, `/sweep` and `/models`."""

import gradio as gr

from ...common.checks import InputError, whole_list
from ...evaluation import comparison as cmp
from ...models.library import AnyLibrary
from ..models.table import entries
from ..serving import gpu
from ..serving.server import Server
from ..wiring import COMPUTE

SWEEP = ",".join(map(str, cmp.SWEEP_STEPS))


def add_api(server: Server) -> None:
    """Adds the endpoints inside an open `gr.Blocks` context. Bad input is answered with one sentence."""
    visitors, lanes = server.visitors, server.lanes

    def computed(library: AnyLibrary, settings: cmp.Settings) -> dict:
        """One comparison, in a turn of its own."""
        with lanes.sampling.turn():
            return cmp.last(lanes.steps(lanes.do(lambda: gpu.run(library, settings)))).to_dict()

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
            return computed(library, settings)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def sweep(
        pde: str,
        methods: list[str],
        steps: list[int] | str = SWEEP,
        n: int = 4,
        seed: int = 0,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float | None = None,
        resolution: int | None = None,
        request: gr.Request = None,
    ) -> dict:
        """`compare` at several step counts from the same noise: rows (by step count, then by method), floors,
        settings. The step counts are a list or text with commas."""
        try:
            schedule = {"sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho, "resolution": resolution}
            library, counts = visitors.library(request.session_hash), whole_list("steps", steps)
            asked = cmp.check_sweep(library, pde, methods, counts, n, seed, **schedule)
            each = [computed(library, one) for one in asked]
            settings = each[0]["settings"] | {"steps": [s.steps for s in asked]}
            rows = [row for one in each for row in one["rows"]]
            return {"rows": rows, "floors": each[0]["floors"], "settings": settings}
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def models(request: gr.Request = None) -> list[dict]:
        """The checkpoints on this server: name, file, SHA-256, size, PDE, resolution, method, parent, figures. Those
        that are not bundled say where they come from (source); of visitors' own models one's own are listed."""
        try:
            return [dict(entry) for entry in entries(visitors, request.session_hash)]
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    gr.api(compare, api_name="compare", **COMPUTE)
    gr.api(sweep, api_name="sweep", **COMPUTE)
    gr.api(models, api_name="models")
