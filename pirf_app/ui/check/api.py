"""The endpoint `/check`: fields of one's own, measured without the page."""

from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from gradio_client.utils import is_file_obj_with_meta

from ...common.checks import InputError
from ...evaluation.own_data import chosen_scaling
from ...pdes import get_pde
from ..serving.server import Server
from ..wiring import COMPUTE
from .measuring import measuring


def uploaded(file: object) -> Path:
    """The place of a file that was sent along. Raises InputError for anything else: a path alone could name any file of
    this server."""
    if is_file_obj_with_meta(file):
        path = Path(file["path"]).resolve()
        if path.is_relative_to(Path(get_upload_folder()).resolve()) and path.is_file():
            return path
    raise InputError("the file itself must be sent: from Python, gradio_client.handle_file(path)")


def table_of(name: str, value: object) -> dict:
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{name} must be a table, such as {{...}}, or left out")
    return value or {}


def add_check(server: Server) -> None:
    """Adds the endpoint inside an open `gr.Blocks` context."""
    lanes = server.lanes

    def check(
        file: dict,
        pde: str,
        scaling: str = "physical",
        keys: dict | None = None,
        offset: list[float] | None = None,
        scale: list[float] | None = None,
        parameters: dict | None = None,
    ) -> dict:
        """Measures the fields in a file (.npz, .npy, .mat, .h5) like the samples of a model: sentence, row, samples,
        floor (what solver data scores), left_out, notes. `scaling` is physical, published or normalised, or `offset`
        and `scale` say, a number a channel, what the file's 0 and 1 stand for. `keys` name the arrays where that is not
        found ({"a": "first", "u": "second"}, or {"fields": "both"}); `parameters` are numbers of the equation."""
        try:
            path, problem = uploaded(file), get_pde(pde, table_of("parameters", parameters))
            names = {str(k): str(v) for k, v in table_of("keys", keys).items()}
            with lanes.sampling.turn():
                *_, found = lanes.steps(measuring(path, problem, names, chosen_scaling(scaling, offset, scale)))
            return found.to_dict()
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    gr.api(check, api_name="check", **COMPUTE)
