"""Entry point of the web page, for `python app.py` and for Hugging Face Spaces."""

import contextlib
import os

import pirf_app  # noqa: F401 - before torch: it says how torch's threads wait

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
with contextlib.suppress(ImportError):  # on Spaces with a shared GPU this has to come before torch
    import spaces  # noqa: F401

from pirf_app.ui.page import build, launch

demo = build()

if __name__ == "__main__":
    port = os.environ.get("PORT") or os.environ.get("GRADIO_SERVER_PORT")
    launch(
        demo,
        server_name=os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"),
        server_port=int(port) if port else None,
    )
