"""
The page: its tabs, its routes and its API on one server.

    serve(read_options())            until the process ends
    build_page(services)             the Blocks alone

The page's process imports no torch: data is read in a helper process (service/worker.py), training
runs in its own. Nothing of a run lives here, so the page may be restarted or killed at any time.
"""

import os

# Read when gradio is imported: no statistics to its makers, no look for newer versions.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from tuner.hub.identity import TRUST
from tuner.runs.store import RunStore
from tuner.ui.api import add_api
from tuner.ui.arrivals import Arrivals
from tuner.ui.ending import ending_well
from tuner.ui.fine_tune import build_fine_tune
from tuner.ui.form_events import FormEvents
from tuner.ui.form_wiring import wire_form
from tuner.ui.header import build_header
from tuner.ui.options import Options
from tuner.ui.playground import build_playground
from tuner.ui.playground_events import PlaygroundEvents
from tuner.ui.playground_wiring import wire_playground
from tuner.ui.publish import build_publish
from tuner.ui.publish_events import PublishEvents
from tuner.ui.publish_exports import ExportEvents
from tuner.ui.publish_files import Exports, export_routes
from tuner.ui.publish_wiring import wire_publish
from tuner.ui.routes import routes
from tuner.ui.run_events import wire_run
from tuner.ui.same_origin import KEEPS_TO_ITSELF, fetch_nothing
from tuner.ui.services import Services
from tuner.ui.theme import HEAD, theme
from tuner.ui.uploads import remove_old_uploads

FOOTER = (
    'Everything stays on this machine unless you publish it. <a href="?view=api">Use the API</a>'
)
CACHE_SECONDS = (3600, 86400)  # looks every hour for temporary files older than a day
QUEUE_SECONDS = 0.01
MOST_WAITING = 64  # events in Gradio's queue, of all visitors together


def serve(options: Options) -> None:
    """Serve the page until the process is ended. Runs at work go on without it, but on a Space.

    Raises:
        OSError: The port is taken.
    """
    if options.trust_network:
        os.environ[TRUST] = "1"
    store = RunStore(options.runs_dir)
    services = Services.of(store, open_to_others=options.open_to_others)
    with ending_well(services):
        services.begin()
        remove_old_uploads(store.root, _sources(store))
        launch(build_page(services), services, options)


def launch(page: gr.Blocks, services: Services, options: Options, **more: object) -> object:
    """Start the server as the options say; see gr.Blocks.launch for what it returns."""
    fetch_nothing()
    return page.launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        mcp_server=options.mcp,
        max_file_size=options.max_upload_bytes,
        app_kwargs={
            "routes": _routes(services),
            "middleware": [Middleware(Arrivals), *KEEPS_TO_ITSELF],
        },
        theme=theme(),
        head=HEAD,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        show_error=True,
        **more,
    )


def build_page(services: Services) -> gr.Blocks:
    """Compose the page."""
    with gr.Blocks(
        title="Tuner", analytics_enabled=False, delete_cache=CACHE_SECONDS, fill_width=True
    ) as page:
        build_header(services, page)
        with gr.Tabs(elem_id="tuner-tabs"):
            with gr.Tab("Fine-tune", id="fine-tune"):
                form = build_fine_tune(services)
            with gr.Tab("Runs", id="runs"):
                gr.HTML("<tuner-runs></tuner-runs>", elem_id="tuner-run-list")
            with gr.Tab("Playground", id="playground"):
                play = build_playground()
            with gr.Tab("Publish", id="publish"):
                publishing = build_publish()
        events = FormEvents(form, services)
        wire_form(form, events, page)
        wire_run(form, events, services)
        wire_playground(play, PlaygroundEvents(play, services), form, page)
        wire_publish(
            publishing,
            PublishEvents(publishing, services),
            ExportEvents(publishing, services),
            form,
            page,
        )
        gr.HTML(FOOTER, elem_id="tuner-footer")
        add_api(services)
    # api_open: nobody calls a handler past the queue and its limits.
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=4, api_open=False)
    # Gradio looks at its queue a thousand times a second, which takes 4% of a core from training.
    page._queue.sleep_when_free = QUEUE_SECONDS
    return page


def _routes(services: Services) -> list[BaseRoute]:
    """What is answered before Gradio is asked."""
    store, access = services.store, services.access
    return [
        *routes(store, access, services.line),
        *export_routes(Exports(store.root), store, access),
    ]


def _sources(store: RunStore) -> list[str]:
    """dataset.source of every run, as far as it can be read."""
    found = []
    for run in store.list():
        try:
            found.append(run.recipe().dataset.source)
        except (ValueError, OSError):
            continue
    return found
