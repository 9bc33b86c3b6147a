"""Entry point of the web page, for `python app.py` and for Hugging Face Spaces."""

import contextlib
import os

from pirf_app.ui.serving import process  # first: the package says how the threads of torch wait

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

with process.serving(os.environ) if __name__ == "__main__" else contextlib.nullcontext() as address:
    with contextlib.suppress(ImportError):  # on Spaces with a shared GPU this has to come before torch
        import spaces  # noqa: F401

    from pirf_app.ui.page import build, launch

    demo = build()
    if address:
        launch(demo, **address)
