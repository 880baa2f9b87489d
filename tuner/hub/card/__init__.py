"""
The model card of a run: README.md as the Hub shows it, from what the run's folder tells.

    card = make_card(run, "anna/support-bot")

What it is for and what its preset warns of, answers before and after, how it is loaded, data,
figures, recipe, licences. Nothing in it names a place on this machine, no row of the data is in it,
and text of others stays text. Made again from the same run, it is the same.
Not covered: the files beside it (bundle.py), the image of the curve (curve_image.py).
"""

from tuner.hub.card.answers import before_and_after, votes_line
from tuner.hub.card.base import is_non_commercial, licence_words
from tuner.hub.card.data import data_licence, data_lines, licence_line
from tuner.hub.card.facts import Facts, facts_of
from tuner.hub.card.front_matter import front_matter
from tuner.hub.card.loading import loading
from tuner.hub.card.markdown import code, section, text
from tuner.hub.card.prompt_format import prompt_format
from tuner.hub.card.training import proof, recipe_block, results, training_table
from tuner.hub.curve_image import curves_of
from tuner.hub.local_paths import local_roots, without_local_paths
from tuner.runs.redact import redact
from tuner.runs.run import Run

__all__ = ["make_card"]


def make_card(run: Run, repo: str, merged: bool = False, token: str | None = None) -> str:
    """Write a run's card.

    Args:
        repo: Where it will stand, user/name; it is in the code that loads the model.
        merged: For merged weights, which load without peft.
        token: Of who asks the Hub for the base's licence; None asks as a stranger. Never kept.

    Raises:
        RecipeError: The run's recipe is gone or is none.
    """
    facts = facts_of(run, repo, merged, token)
    parts = [front_matter(facts), *_sections(facts)]
    card = "\n\n".join(part for part in parts if part) + "\n"
    # Once more over all of it: a model may have learned a path, or a token, from its data.
    return redact(without_local_paths(card, local_roots(run, facts.recipe.base_model)))


def _sections(facts: Facts) -> list[str]:
    has_curve = bool(curves_of(facts.history))
    return [
        f"# {text(facts.name)}",
        _purpose(facts),
        _notice(facts),
        section("Before and after", before_and_after(facts), votes_line(facts.run)),
        section("How to use it", loading(facts, prompt_format(facts))),
        section("Data", data_lines(facts)),
        section("Results", results(facts, has_curve)),
        section("Training", training_table(facts), proof(facts), recipe_block(facts)),
        section("Licence", _licence(facts)),
    ]


def _purpose(facts: Facts) -> str:
    """What it is, in two sentences."""
    base = _base(facts)
    if facts.recipe.adapter == "none":
        made = f"A fine-tune of {base} with all its weights, trained in Tuner."
    elif facts.merged:
        made = f"A merge of {base} and an adapter that was trained with {facts.method} in Tuner."
    else:
        made = f"An adapter for {base}, trained with {facts.method} in Tuner."
    about = facts.preset.about if facts.preset else None
    return f"{made} Preset {text(about.title)}: {text(about.description)}" if about else made


def _notice(facts: Facts) -> str:
    notice = facts.preset.about.notice if facts.preset else None
    told = notice or "Like every language model it can be wrong: check what matters."
    return f"> **Note.** {text(told, 1000)}"


def _base(facts: Facts) -> str:
    base = facts.base
    if base.is_starter:
        return "Tuner's built-in practice model (2.6 M parameters, for trying things out)"
    if base.link is None:
        return f"a local model ({code(base.name)})"
    at = f" at {code(base.revision)}" if base.revision else ""
    return f"[{text(base.name)}]({base.link}){at}"


def _licence(facts: Facts) -> str:
    """Whose licences hold for it."""
    licence, link = licence_words(facts.base.licence), facts.base.licence.get("license_link")
    if not licence:
        where = f" See [its page]({facts.base.link})." if facts.base.link else ""
        base = f"The licence of the base model is not known.{where}"
    else:
        shown = f"[{text(licence)}](<{link}>)" if link and ">" not in link else text(licence)
        base = f"Inherited from the base model: {shown}."
        if is_non_commercial(f"{licence} {link or ''}"):
            base += " **Not for commercial use.**"
    return f"{base} {licence_line(facts)}" if data_licence(facts) else base
