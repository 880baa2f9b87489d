"""
The shapes that data sets come in, each with the names it is known by.

Recognition goes by name; it looks at values only to tell conversations and labels from other
columns. A shape returns None where it does not fit and raises where it fits in two ways.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.data.cell_values import is_conversation
from tuner.data.columns import Columns, Roles, listed
from tuner.data.conversion import (
    Converter,
    Row,
    to_chosen_conversation,
    to_conversation,
    to_good_conversation,
    to_labelled_answer,
    to_preference,
    to_text,
)
from tuner.data.examples import Example, Kind, RowError
from tuner.errors import DatasetError

# Names in tiers: a later tier counts only where an earlier one has no column, so that options
# A, B, C, D beside question and answer, or a `user` who asked, do not raise doubts.
PROMPTS = (
    ("prompt", "question", "query", "instruction", "problem"),
    ("user", "user_message", "human", "message", "q", "input"),
)
ANSWERS = (
    ("completion", "response", "output", "answer", "answers", "reply", "solution", "long_answer"),
    ("assistant", "assistant_message", "bot", "gpt", "a"),
)
# Couples so established that other columns with known names raise no doubt: the Alpaca files on
# the Hub often carry a rendered `prompt` or `text` as well.
COUPLES = (("instruction", "output"), ("prompt", "completion"))
CONTEXTS = ("input", "context", "contexts", "passage", "background")
SYSTEMS = ("system", "system_prompt", "system_message")
CONVERSATIONS = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns")
CHOSEN = ("chosen", "chosen_response", "response_chosen", "preferred")
REJECTED = ("rejected", "rejected_response", "response_rejected", "dispreferred")
LABELS = ("kto_tag", "label")
DOCUMENTS = ("original_text", "document", "article", "text")
SUMMARIES = ("reference_summary", "summary", "highlights")
TEXTS = ("text", "content", "document", "body")
CLASSES = ("label", "labels", "class", "category", "sentiment", "target", "intent")

Sample = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Format:
    """What a data set's columns are.

    Attributes:
        name: "alpaca", "sharegpt", "mapping", …
        reason: A sentence that says what was recognised, and by what.
        kind: Of the examples that `convert` makes.
        columns: Role → columns.
    """

    name: str
    reason: str
    kind: Kind
    columns: Roles
    converter: Converter

    def convert(self, row: Row) -> Example:
        """One row as an example, without its source.

        Raises:
            RowError: The row cannot be used; says why.
        """
        try:
            return self.converter(row, self.columns)
        except RecursionError:
            raise RowError("a cell is nested too deeply") from None


def preference_shape(table: Columns, sample: Sample, objective: str) -> Format | None:
    """Columns chosen and rejected, whatever the context."""
    chosen, rejected = table.find(*CHOSEN), table.find(*REJECTED)
    if not chosen or not rejected:
        return None
    roles = {**context_roles(table, sample), "chosen": [chosen], "rejected": [rejected]}
    return preference_format("preference", "a preferred and a rejected answer", roles, objective)


def preference_format(name: str, what: str, roles: Roles, objective: str) -> Format:
    """Pairs for dpo; for sft the chosen answers."""
    reason = f"Columns {listed([*roles['chosen'], *roles['rejected']])} are {what}"
    if objective == "sft":
        reason += "; for objective=sft the chosen answers are used"
        return Format(name, reason, "sft", roles, to_chosen_conversation)
    return Format(name, reason, "preference", roles, to_preference)


def labelled_shape(table: Columns, sample: Sample, objective: str, name: str) -> Format | None:
    """An answer with a label good or bad."""
    label = table.find(*LABELS)
    if not label or not (objective == "kto" or _says_good_or_bad(table, sample, label)):
        return None
    roles = context_roles(table, sample)
    if "messages" not in roles:
        answers = table.all_of(["completion"]) or table.all_of(ANSWERS[0])
        if not roles or not answers:
            return None
        _require_one(name, roles["prompt"][:1], answers)
        roles["answer"] = answers
    return labelled_format("kto", {**roles, "label": [label]}, objective)


def labelled_format(name: str, roles: Roles, objective: str) -> Format:
    """Labelled answers for kto; for sft the good ones."""
    answers = listed(roles.get("answer") or roles["messages"])
    reason = f"Column {listed(roles['label'])} says whether the answer in {answers} is good"
    if objective == "sft":
        reason += "; for objective=sft the good answers are used"
        return Format(name, reason, "sft", roles, to_good_conversation)
    return Format(name, reason, "kto", roles, to_labelled_answer)


def conversation_shape(table: Columns, sample: Sample, name: str) -> Format | None:
    """One column of messages, by a usual name or, failing that, by what it holds."""
    column = _conversation_column(table, sample) or _unnamed_conversations(table, sample, name)
    if column is None:
        return None
    values = str(next(row[column] for row in sample if row.get(column)))
    sharegpt = "'from'" in values or '"from"' in values
    shape = "ShareGPT's from and value" if sharegpt else "messages with role and content"
    return Format(
        "sharegpt" if sharegpt else "messages",
        f"Column {column} holds conversations: {shape}",
        "sft",
        {"messages": [column]},
        to_conversation,
    )


def pair_shape(table: Columns, name: str) -> Format | None:
    """A prompt and an answer, each by exactly one known name, or an established couple.

    Raises:
        DatasetError: Several columns could be the one or the other.
    """
    prompts = next(filter(None, map(table.all_of, PROMPTS)), [])
    answers = next(filter(None, map(table.all_of, ANSWERS)), [])
    for couple in COUPLES:
        if len(found := table.all_of(couple)) == 2:
            prompts, answers = [found[0]], [found[1]]
            break
    if not prompts or not answers:
        return None
    _require_one(name, prompts, answers)
    context = [column for column in table.all_of(CONTEXTS) if column not in prompts]
    return _pair_format(table, prompts, context, answers)


def document_shape(table: Columns) -> Format | None:
    """A document and its summary."""
    document, summary = table.all_of(DOCUMENTS), table.all_of(SUMMARIES)
    if len(document) != 1 or len(summary) != 1:
        return None
    reason = f"Column {document[0]} is a document and {summary[0]} its summary"
    return Format(
        "summary", reason, "sft", {"prompt": document, "answer": summary}, to_conversation
    )


def text_shape(table: Columns, name: str) -> Format | None:
    """Plain text, unless a class beside it makes another reading as likely.

    Raises:
        DatasetError: Such a class.
    """
    text = table.all_of(TEXTS)
    if len(text) != 1:
        return None
    if classes := table.all_of(CLASSES):
        raise DatasetError(
            f"{name}: {text[0]} could be trained on as plain text, or as a prompt with "
            f"{classes[0]} as its answer. Say which: --map text={text[0]}, or "
            f"--map prompt={text[0]} --map answer={classes[0]}"
        )
    reason = f"Column {text[0]} is plain text, every token of which is trained"
    return Format("text", reason, "text", {"text": text}, to_text)


def context_roles(table: Columns, sample: Sample) -> Roles:
    """What precedes an answer that has a column of its own: a conversation, or a prompt."""
    conversation = _conversation_column(table, sample)
    if conversation and not table.find("prompt"):
        return {"messages": [conversation]}
    prompts = table.all_of(["prompt", "instruction", "question", "query"])[:1]
    return _with_history(table, {"prompt": prompts + table.all_of(CONTEXTS)}) if prompts else {}


def _conversation_column(table: Columns, sample: Sample) -> str | None:
    named = table.all_of(CONVERSATIONS)
    return next((column for column in named if _holds_conversations(sample, column)), None)


def _unnamed_conversations(table: Columns, sample: Sample, name: str) -> str | None:
    # A prompt and an answer may be written as messages too (trl's conversational columns).
    known = set(table.all_of([*PROMPTS[0], *ANSWERS[0]]))
    found = [c for c in table.names if c not in known and _holds_conversations(sample, c)]
    if len(found) > 1:
        raise DatasetError(
            f"{name}: {listed(found)} all hold conversations. Say which to use, for example "
            f"--map messages={found[0]}"
        )
    return next(iter(found), None)


def _holds_conversations(sample: Sample, column: str) -> bool:
    values = [row[column] for row in sample if row.get(column)]
    return bool(values) and sum(map(is_conversation, values)) * 2 >= len(values)


def _says_good_or_bad(table: Columns, sample: Sample, label: str) -> bool:
    """kto_tag always does; label only in words, because 0 and 1 may be any two classes."""
    if label == table.find("kto_tag"):
        return True
    spelled = {str(row[label]).strip().lower() for row in sample if row.get(label) is not None}
    return bool(spelled) and spelled <= {"true", "false", "good", "bad"}


def _require_one(name: str, prompts: list[str], answers: list[str]) -> None:
    doubts = [
        f"{listed(found)} could each be the {role}"
        for role, found in (("prompt", prompts), ("answer", answers))
        if len(found) > 1
    ]
    if doubts:
        raise DatasetError(
            f"{name}: {'; '.join(doubts)}. Say which to use, for example "
            f"--map prompt={prompts[0]} --map answer={answers[0]}"
        )


def _pair_format(
    table: Columns, prompt: list[str], context: list[str], answer: list[str]
) -> Format:
    roles = _with_history(table, {"prompt": prompt + context, "answer": answer})
    if prompt[0] == table.find("instruction"):
        reason = f"Columns {listed([*prompt, *context, *answer])} are Alpaca's"
        return Format("alpaca", reason, "sft", roles, to_conversation)
    if prompt[0] in table.all_of(["question", "query", "problem", "q"]):
        format_name, what = "question_answer", "a question and its answer"
    else:
        format_name, what = "prompt_completion", "a prompt and its completion"
    reason = f"Columns {listed([*prompt, *answer])} are {what}"
    if context:
        reason += f", and {listed(context)} is added to the prompt"
    return Format(format_name, reason, "sft", roles, to_conversation)


def _with_history(table: Columns, roles: Roles) -> Roles:
    history = table.all_of(["history"])
    return {"history": history, **roles} if history else roles
