"""
The API: what the page does, as named endpoints for gradio_client and, with --mcp, as tools.

    client = gradio_client.Client("http://127.0.0.1:7860")
    client.predict(recipe_yaml, api_name="/start_run")

The answers are the documents of the shell's `--json`; a refused call raises with the sentences.
The docstrings here are what a client is told, so each argument has one line. docs/API.md has a
tested example.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import get_blocks_context
from gradio.utils import get_function_description

from tuner.chat.lineup import default_sampling
from tuner.errors import RecipeError, RunError, TunerError
from tuner.recipe import Recipe
from tuner.service import run_documents
from tuner.service.chat_documents import chat_documents
from tuner.service.estimating import estimate_document
from tuner.service.previewing import preview_document
from tuner.ui import draft
from tuner.ui.chat_view import make_sampling
from tuner.ui.saves import pull_for, start_copies
from tuner.ui.services import Services
from tuner.ui.visit import Visit

CONCURRENCY = 8
# Shown where a client is offered code to begin with.
EXAMPLES = {
    "recipe_yaml": "dataset: {source: presets/data/chatbot.jsonl}",
    "run": "support-bot",
    "repo": "anna/support-bot",
}


class Api:
    """The endpoints of one page."""

    def __init__(self, services: Services):
        self._services, self._store = services, services.store

    def start_run(
        self, recipe_yaml: str, request: gr.Request, dataset_file: str | None = None
    ) -> dict[str, Any]:
        """Check a recipe and put a run of it in line; it begins by itself when its turn comes.

        Args:
            recipe_yaml: The run's settings as YAML; those that are left out have their defaults.
            dataset_file: A file of rows to train on, instead of the recipe's dataset.source.

        Returns:
            {"run": its id, "dir", "state": "queued", "position": its place in line}
        """
        visit = self._services.visit(request)
        return visit.start(_recipe_with_data(visit, recipe_yaml, dataset_file))

    def run_status(self, run: str, request: gr.Request) -> dict[str, Any]:
        """Tell where a run stands: its state, step, place in line, and its result once it ended.

        Args:
            run: The run's id, or the part of it after the time.

        Returns:
            {"run", "dir", "state", "reason", "position", "step", "max_steps", "result"}
        """
        found = self._services.visit(request).run(str(run))
        return run_documents.status_document(self._store, found)

    def run_events(self, run: str, request: gr.Request, after: int = 0) -> dict[str, Any]:
        """Read a run's events: losses, samples, checkpoints, states.

        Args:
            run: The run's id, or the part of it after the time.
            after: 0 for all events, or "next" of the last answer for those that came since.

        Returns:
            {"events": in order, "next": what to give as `after` the next time}
        """
        if not isinstance(after, int):
            raise RunError(f'after={after!r} is not 0 and not "next" of an earlier answer.')
        found = self._services.visit(request).run(str(run))
        document = run_documents.events_document(found, after)
        return {**document, "events": [_without_path(event) for event in document["events"]]}

    def list_runs(self, request: gr.Request) -> list[Any]:
        """List all runs, newest first.

        Returns:
            [{"run", "state", "preset", "base_model", "steps", "eval_loss", "created", ...}]
        """
        return [run.summary() for run in self._services.visit(request).runs()]

    def stop_run(self, run: str, request: gr.Request) -> dict[str, Any]:
        """Stop a run after its step and keep its adapter, or take it out of line.

        Args:
            run: The run's id, or the part of it after the time.

        Returns:
            {"run", "dir", "state", "reason"}
        """
        return run_documents.stop_document(self._services.visit(request).own_run(str(run)))

    def resume_run(self, run: str, request: gr.Request) -> dict[str, Any]:
        """Put a run in line to go on at its last checkpoint.

        Args:
            run: The run's id, or the part of it after the time.

        Returns:
            {"run", "dir", "state": "queued", "position": its place in line}
        """
        visit = self._services.visit(request)
        found = visit.own_run(str(run))
        visit.require_resuming(found)
        document = run_documents.resume_document(self._store, found)
        start_copies(visit.person, found)
        self._services.dispatcher.wake()
        return document

    def pull_run(
        self, repo: str, request: gr.Request, revision: str | None = None
    ) -> dict[str, Any]:
        """Bring back a run that was copied to the Hub at every save, so that it can be resumed.

        Args:
            repo: Its hub_model_id, user/name.
            revision: A commit or branch, for an earlier copy.

        Returns:
            {"run": its id here, "dir", "repo", "commit", "state", "step", "bytes", "pushes"}
        """
        return dict(pull_for(self._services.visit(request), self._store, str(repo), revision))

    def preview_dataset(
        self, recipe_yaml: str, request: gr.Request, dataset_file: str | None = None
    ) -> dict[str, Any]:
        """Show rows as the model will see them, and what becomes of all rows. Nothing is started.

        Args:
            recipe_yaml: Settings as YAML; base_model, dataset and max_length matter here.
            dataset_file: A file of rows to look at, instead of the recipe's dataset.source.

        Returns:
            {"rows", "kept", "truncated", "dropped", "examples": with their tokens, ...}
        """
        recipe = _recipe_with_data(self._services.visit(request), recipe_yaml, dataset_file)
        return dict(self._services.worker.call(preview_document, recipe))

    def estimate(self, recipe_yaml: str, request: gr.Request) -> dict[str, Any]:
        """Estimate memory and time of a recipe on this machine. Nothing is started.

        Args:
            recipe_yaml: Settings as YAML; without a dataset the time is not estimated.

        Returns:
            {"fits", "verdict", "estimated_memory_bytes", "estimated_seconds", ...}
        """
        recipe = _recipe(self._services.visit(request), recipe_yaml)
        return self._services.worker.call(estimate_document, recipe)

    def chat_ab(
        self,
        run: str,
        prompt: str,
        request: gr.Request,
        max_new_tokens: int = 128,
        temperature: float = 0.7,
        seed: int = 7,
    ) -> Iterator[dict[str, Any]]:
        """Ask the base and the tuned model the same question, in one batch with the same seed.

        Args:
            run: The run's id or name; or an adapter, by its folder or Hub id.
            prompt: The question.
            max_new_tokens: Longest answer, in tokens; 1024 at most.
            temperature: 0 always takes the likeliest token.
            seed: The same seed and question give the same answers.

        Returns:
            {"prompt", "answers": [{"name", "text", "tokens", "seconds"}]}, base first; it grows
            while they answer.
        """
        visit = self._services.visit(request)
        lineup = visit.lineup(str(run))
        given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        sampling = make_sampling({**vars(default_sampling(lineup.base)), **given})
        visit.count_question(sampling)
        yield from chat_documents(self._services.chat, lineup, prompt, sampling)


def add_api(services: Services) -> None:
    """Add the endpoints to the Blocks that is being built."""
    api = Api(services)
    for endpoint in (
        api.run_status,
        api.run_events,
        api.list_runs,
        api.stop_run,
        api.resume_run,
        api.pull_run,
        api.estimate,
    ):
        called = gr.api(_telling(endpoint), **_options(endpoint))
        _describe(called, endpoint)
    called = gr.api(_telling_all(api.chat_ab), **_options(api.chat_ab))
    _describe(called, api.chat_ab)
    for endpoint in (api.start_run, api.preview_dataset):
        _describe(_add_with_file(endpoint), endpoint)


def _add_with_file(endpoint: Callable[..., Any]) -> Any:
    """Files come through a component, which admits only what was uploaded."""
    with gr.Column(visible=False):
        inputs = [gr.Textbox(), gr.File(type="filepath")]
        return gr.Button().click(_telling(endpoint), inputs, gr.JSON(), **_options(endpoint))


def _options(endpoint: Callable[..., Any]) -> dict[str, Any]:
    return {"api_name": endpoint.__name__, "concurrency_limit": CONCURRENCY}


def _describe(called: Any, endpoint: Callable[..., Any]) -> None:
    """Give arguments and answer their names and the words of the docstring.

    Args:
        called: What Gradio made of the endpoint.
    """
    blocks = get_blocks_context().blocks
    _, arguments, answer = get_function_description(endpoint)
    arguments.pop("request")  # Gradio's own to give
    for block, (name, words) in zip(called["inputs"], arguments.items(), strict=True):
        # "additional_description" is what gradio_client prints, "description" what OpenAPI has.
        _name(blocks[block], name, {"description": words, "additional_description": words})
        if name in EXAMPLES:
            blocks[block].example_inputs = functools.partial(EXAMPLES.get, name)
    for block in called["outputs"]:
        _name(blocks[block], "answer", {"description": " ".join(answer)})


def _name(block: Any, label: str, words: dict[str, str]) -> None:
    schema = {**block.api_info(), **words}
    block.label, block.api_info = label, lambda: schema


def _recipe(visit: Visit, text: str) -> Recipe:
    found = visit.read(str(text))
    if found.recipe is None:
        raise RecipeError(found.problems)
    return found.recipe


def _recipe_with_data(visit: Visit, text: str, dataset_file: str | None) -> Recipe:
    if dataset_file:
        text = _with_file(text, visit.keep_uploads([Path(dataset_file)]))
    recipe = _recipe(visit, text)
    if not recipe.dataset.source:
        raise RecipeError(
            "There is no data to train on. Give dataset_file, or dataset.source in the recipe."
        )
    return recipe


def _without_path(event: dict[str, Any]) -> dict[str, Any]:
    """An event whose `path` is called `folder`.

    gradio_client takes whatever has a "path" for a file, asks for it and fails.
    """
    return {"folder" if key == "path" else key: value for key, value in event.items()}


def _with_file(text: str, file: Path) -> str:
    """Put a file in the place of a recipe's data. How its rows are to be read stays as it says."""
    data = draft.section(draft.read_draft(str(text)).values, "dataset")
    kind = "auto" if data.get("kind") in (None, "hub") else data["kind"]
    how = {key: data[key] for key in ("columns", "split") if key in data}
    return draft.with_data(str(text), str(file), kind, **how)


def _telling(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Let a caller read the sentences of a foreseen problem."""

    @functools.wraps(endpoint)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return endpoint(*args, **options)
        except TunerError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return call


def _telling_all(endpoint: Callable[..., Iterator[dict[str, Any]]]) -> Callable[..., Any]:
    """As _telling, of an endpoint whose answer grows."""

    @functools.wraps(endpoint)
    def call(*args: Any, **options: Any) -> Any:
        try:
            yield from endpoint(*args, **options)
        except TunerError as error:
            raise gr.Error(str(error), print_exception=False) from None

    # Gradio takes the type of one answer from here.
    call.__annotations__ = {**endpoint.__annotations__, "return": dict[str, Any]}
    return call
