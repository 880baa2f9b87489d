"""
The header: the app's name, a run in progress, the machine, light or dark. On a Space also the
sign-in, a way to a Space of one's own, and whether what is made here lasts.

The sign-in is made on Spaces only: elsewhere Gradio's button hands out a made-up token, and its
session cookie is signed with a key that everybody knows.
"""

import os
from urllib.parse import quote

import gradio as gr

from tuner.hub.identity import Role
from tuner.hub.space import disk_is_temporary
from tuner.ui.access import person
from tuner.ui.base_model_view import machine_words
from tuner.ui.form_wiring import AT_ONCE
from tuner.ui.markup import element, notes
from tuner.ui.options import in_a_space
from tuner.ui.services import Services

# Without these Gradio refuses to serve a sign-in at all.
SIGN_IN_VARIABLES = (
    "OAUTH_CLIENT_ID",
    "OAUTH_CLIENT_SECRET",
    "OAUTH_SCOPES",
    "OPENID_PROVIDER_URL",
)


def build_header(services: Services, page: gr.Blocks) -> None:
    """Lay out the header, and what it says to whom."""
    with gr.Row(elem_id="tuner-header"):
        machine = element("span", machine_words(services.device), class_="tuner-machine")
        live = element("span", id="tuner-live")
        gr.HTML(element("h1", "Tuner") + live + machine)
        theme_button = gr.Button("◐ light or dark", size="sm", elem_id="tuner-theme")
        theme_button.click(None, js="() => { window.Tuner.toggleTheme(); }")
        if offers_sign_in():
            gr.LoginButton(
                "Sign in",
                logout_value="Sign out {}",
                variant="secondary",
                icon=None,
                size="sm",
                elem_id="tuner-sign-in",
            )
    if in_a_space():
        notice = gr.HTML(elem_id="tuner-space")

        def tell(request: gr.Request) -> str:
            return space_notice(person(request.request).role)

        page.load(tell, None, notice, **AT_ONCE)


def offers_sign_in() -> bool:
    """Whether this is a Space whose settings allow to sign in (hf_oauth: true)."""
    # Gradio has to think so too (SYSTEM=spaces), or it would serve its made-up sign-in.
    if not (in_a_space() and gr.utils.get_space()):
        return False
    return all(os.environ.get(name) for name in SIGN_IN_VARIABLES)


def space_notice(role: Role) -> str:
    """What a person should know of this Space before they begin."""
    said = []
    if role is Role.VISITOR:
        address = f"https://huggingface.co/spaces/{quote(os.environ['SPACE_ID'])}?duplicate=true"
        link = element("a", "Duplicate this Space", href=address, target="_blank", rel="noopener")
        said.append(element("p", inner=link + " to train on your own.", class_="tuner-note"))
    if disk_is_temporary():
        said.append(
            notes(
                [
                    "The disk of this Space is temporary: its runs are gone when it restarts. "
                    "Publish what you want to keep, or let every checkpoint be pushed while it "
                    "trains (push_every_save)."
                ],
                "warning",
            )
        )
    return "".join(said)
