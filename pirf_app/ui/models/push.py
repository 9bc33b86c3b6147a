"""On a Space where visitors can sign in: one of their models, to a repository of their own account."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr
from gradio.utils import get_space

from ...common.checks import InputError
from ...hub.client import HubError, Transfer
from ...hub.publish import run_plan, send
from ..drawing import html

SECONDS = 180.0
SIGN_IN = "sign in with Hugging Face first: the model goes to a repository of your own account"


def possible() -> bool:
    """Whether visitors can sign in: this is a Space, and one with `hf_oauth`, which sets these variables."""
    variables = ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL")
    return get_space() is not None and all(os.environ.get(name) for name in variables)


@dataclass
class PushControls:
    name: gr.Textbox
    button: gr.Button

    def connect(self, find: Callable, mine: gr.Dropdown, status: gr.HTML) -> None:
        """`find(name, request)` gives the model and the library that knows its parent."""

        def on_push(
            chosen: str | None,
            repository: str,
            request: gr.Request,
            profile: gr.OAuthProfile | None,
            token: gr.OAuthToken | None,
        ) -> str:
            try:
                model, library = find(chosen, request)
                return pushed(model, library, repository, profile and profile.username, token and token.token)
            except InputError as error:
                return html.problem(error)

        options = {"api_visibility": "private", "concurrency_limit": 2}
        self.button.click(on_push, [mine, self.name], status, **options)


def controls() -> PushControls:
    with gr.Column(min_width=260, elem_classes="tool"):
        name = gr.Textbox("pirf-run", label="New repository in your account", max_lines=1, elem_id="models-push-name")
        with gr.Row():
            button = gr.Button("Push to my account", size="sm", elem_id="models-push")
            gr.LoginButton(size="sm")
    return PushControls(name, button)


def pushed(model, library, repository: str, username: str | None, token: str | None) -> str:
    """Uploads a visitor's model to USERNAME/`repository` with the visitor's own token. Raises InputError."""
    if not username or not token:
        raise HubError(SIGN_IN)
    plan = run_plan(model.path, library, f"{username}/{(repository or '').strip()}", model.name)
    address = send(plan, token=token, transfer=Transfer(SECONDS))
    return f'<p class="caption">Uploaded to <a href="{address}" target="_blank" rel="noopener">{plan.repo}</a>.</p>'
