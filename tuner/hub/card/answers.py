"""
What a card shows of how the model answers: the same questions before and after, and blind votes.

The answers are those that the run recorded while it trained, to the recipe's own prompts. What
people typed into the playground stays there: of their votes only the count is told.
"""

from tuner.chat.votes import Tally, read_votes, tally
from tuner.hub.card.facts import Facts
from tuner.hub.card.markdown import quoted
from tuner.runs.names import slug_of
from tuner.runs.run import Run

SHOWN = 3
BASE = "base"


def before_and_after(facts: Facts) -> str:
    """The first questions with the base's answer and the tuned one."""
    pairs = _pairs(facts)[:SHOWN]
    if not pairs:
        return ""
    asked = len(facts.recipe.sample_prompts)
    which = f"The first {len(pairs)} of {asked} prompts" if asked > len(pairs) else "Prompts"
    told = f"{which} from the recipe, answered greedily before training and after it; not chosen."
    return "\n\n".join([told, *(_shown(*pair) for pair in pairs)])


def first_pair(facts: Facts) -> tuple[str, str] | None:
    """A question and the tuned model's answer to it."""
    return next(((prompt, after) for prompt, _, after in _pairs(facts)), None)


def votes_line(run: Run) -> str:
    """How often people preferred it to the base without knowing which was which."""
    count = tally_of(run)
    if count.rate is None or count.interval is None:
        return ""
    low, high = (round(100 * end) for end in count.interval)
    neither = count.ties + count.both_bad
    return (
        f"In {count.votes:,} blind votes against the base it won {count.wins:,} and lost "
        f"{count.losses:,}; {neither:,} went to neither. Win rate {100 * count.rate:.0f}% "
        f"(95% interval {low}% to {high}%; a vote for neither counts half)."
    )


def tally_of(run: Run) -> Tally:
    """The votes between what the run kept and its base."""
    name = slug_of(run.id)
    return tally(read_votes(run), run.id if name == BASE else name, BASE)


def _pairs(facts: Facts) -> list[tuple[str, str, str]]:
    """Prompt, the base's answer, the tuned one's: of the kept step, or else of the last."""
    before: dict[int, tuple[str, str]] = {}
    after: dict[int, dict[int, str]] = {}
    for event in facts.history:
        if event["kind"] != "sample":
            continue
        index, answer = event["index"], str(event["text"])
        if event["step"] == 0:
            before[index] = str(event["prompt"]), answer
        else:
            after.setdefault(event["step"], {})[index] = answer
    kept = facts.figure("kept_step")
    tuned = after.get(int(kept)) if kept is not None else None
    tuned = tuned or (after[max(after)] if after else {})
    return [(*before[index], tuned[index]) for index in sorted(before) if index in tuned]


def _shown(prompt: str, before: str, after: str) -> str:
    return "\n\n".join(
        ["**Prompt**", quoted(prompt), "Base", quoted(before), "Tuned", quoted(after), "---"]
    )
