"""
Examples as the text that a model sees, and which characters of it are answers.

A conversation is rendered by the tokenizer's chat template. Which characters are an answer comes
from the template's `{% generation %}` markers, or, without markers, from rendering prefixes of the
conversation and checking that each is a prefix of the next. Where that fails (a template that
rewrites earlier turns), only the last answer is trained.

The renderings of many conversations are made ahead, a hundred a call, since most of a call's time
goes to its limits (chat_template.py). What fails in such a call is rendered again by itself.
Not covered: token ids (rendering.py).
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

from jinja2.exceptions import TemplateError

from tuner.data.chat_template import ChatTemplate, Span
from tuner.data.tokenizer import adds_bos
from tuner.errors import DatasetError

AHEAD = 100  # conversations rendered in one call

Messages = Sequence[dict[str, str]]
Rendering = tuple[str, list[Span]]
Made = TypeVar("Made")


class Written(NamedTuple):
    """A text, and the ranges of its characters that are trained, ascending."""

    text: str
    spans: list[Span]


class WrittenPair(NamedTuple):
    """A prompt, and one or two answers to it, the chosen one first; their texts follow its own."""

    prompt: Written
    answers: list[Written]


class AnswerText:
    """Writes examples as the chat template of one tokenizer has them.

    Args:
        tokenizer: From `load_tokenizer` (tokenizer.py).
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._chat_template = ChatTemplate(tokenizer)

    def write(self, examples: Sequence[dict[str, Any]]) -> list[Written | DatasetError]:
        """Write `messages` or `text` examples; for one that cannot be written, why."""
        talks = [_Talk(example.get("messages", []), self._render) for example in examples]
        self._render_ahead(talks)
        made = [
            partial(self._document, example["text"])
            if "text" in example
            else partial(self._conversation, talk)
            for example, talk in zip(examples, talks, strict=True)
        ]
        return [_or_error(make) for make in made]

    def write_pairs(self, examples: Sequence[dict[str, Any]]) -> list[WrittenPair | DatasetError]:
        """Write `preference` or `kto` examples; for one that cannot be written, why."""
        prompts = [_Talk(example["prompt"], self._render) for example in examples]
        talks = [
            [_Talk([*example["prompt"], *answer], self._render) for answer in _answers(example)]
            for example in examples
        ]
        if len(examples) > 1:
            self._fill([(prompt, len(prompt.messages)) for prompt in prompts], True)
        self._render_ahead([talk for answers in talks for talk in answers])
        return [
            _or_error(partial(self._pair, prompt, answers))
            for prompt, answers in zip(prompts, talks, strict=True)
        ]

    def prompt_text(self, messages: Messages) -> str:
        """The text after which the assistant speaks: what chat and generation start from.

        Raises:
            DatasetError: The template refuses the conversation.
        """
        return self._render(messages, add_generation_prompt=True)[0]

    @cached_property
    def special_ids(self) -> set[int]:
        """Ids that stand for no text of a person's."""
        added = self._tokenizer.added_tokens_decoder
        special = {index for index, token in added.items() if token.special}
        return special | set(self._tokenizer.all_special_ids)

    @cached_property
    def _special_tokens(self) -> tuple[str, ...]:
        """Their texts, longer ones first."""
        tokens = self._tokenizer.convert_ids_to_tokens(sorted(self.special_ids))
        return tuple(sorted(filter(None, tokens), key=len)[::-1])

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._special_tokens)))

    @cached_property
    def _bos(self) -> str:
        return self._tokenizer.bos_token if adds_bos(self._tokenizer) else ""

    def _render_ahead(self, talks: Sequence["_Talk"]) -> None:
        """What `_answer_spans` will ask for, if it is asked of more than one conversation."""
        if len(talks) < 2:
            return
        self._fill([(talk, len(talk.messages)) for talk in talks], False)
        prefixes = [(talk, turns) for talk in talks for turns in talk.unmarked_answers()]
        self._fill(prefixes, True)
        after = [(talk, turns + 1) for talk, turns in prefixes]
        self._fill([(talk, turns) for talk, turns in after if turns < len(talk.messages)], False)

    def _fill(self, wanted: list[tuple["_Talk", int]], add_generation_prompt: bool) -> None:
        for begin in range(0, len(wanted), AHEAD):
            some = wanted[begin : begin + AHEAD]
            conversations = [talk.messages[:turns] for talk, turns in some]
            renderings = self._chat_template.render_many(conversations, add_generation_prompt)
            for (talk, turns), rendering in zip(some, renderings, strict=False):
                talk.known[turns, add_generation_prompt] = rendering

    def _document(self, text: str) -> Written:
        whole = self._bos + text + self._tokenizer.eos_token
        return Written(whole, [(len(self._bos), len(whole))])

    def _conversation(self, talk: "_Talk") -> Written:
        text, spans = self._answer_spans(talk)
        if not spans:
            raise DatasetError("the chat template leaves out the answer")
        return self._end_on_stop_token(text, [self._with_stop_token(text, span) for span in spans])

    def _pair(self, prompt: "_Talk", answers: Sequence["_Talk"]) -> WrittenPair:
        asked = prompt.up_to(len(prompt.messages), add_generation_prompt=True)[0]
        return WrittenPair(Written(asked, []), [self._answer(asked, talk) for talk in answers])

    def _answer(self, asked: str, talk: "_Talk") -> Written:
        """An answer's own text, without the prompt's; all of it trained."""
        text, spans = self._conversation(talk)
        if not text.startswith(asked):
            raise DatasetError("the chat template renders the prompt differently with an answer")
        own = text[len(asked) : spans[-1][1]]
        return Written(own, [(0, len(own))])

    def _answer_spans(self, talk: "_Talk") -> Rendering:
        text, marked = talk.up_to(len(talk.messages))
        if marked:
            return text, marked
        spans = [self._prefix_span(text, talk, turns) for turns in talk.answers()]
        whole = [span for span in spans if span]
        if len(whole) == len(spans):
            return text, whole
        return text, [self._last_answer_span(text, talk)]

    def _prefix_span(self, text: str, talk: "_Talk", turns: int) -> Span | None:
        """Where the answer after some turns stands, if what leads to it is a prefix of the text."""
        before = talk.up_to(turns, add_generation_prompt=True)[0]
        after = talk.up_to(turns + 1)[0]
        fits = text.startswith(before) and text.startswith(after) and len(before) < len(after)
        return (len(before), len(after)) if fits else None

    def _last_answer_span(self, text: str, talk: "_Talk") -> Span:
        before = talk.up_to(len(talk.messages) - 1, add_generation_prompt=True)[0]
        if text.startswith(before) and len(before) < len(text):
            return len(before), len(text)
        start = text.rfind(talk.messages[-1]["content"].strip())
        if start < 0:
            raise DatasetError("the chat template changes the answer beyond recognition")
        return start, len(text)

    def _with_stop_token(self, text: str, span: Span) -> Span:
        """Move the end of a span onto the stop token: back over white space, or forward to it."""
        start, end = span
        said = start + len(text[start:end].rstrip())
        if text.endswith(self._special_tokens, start, said):
            return start, said
        following = self._special_pattern.match(text, end)
        return (start, following.end()) if following else span

    def _end_on_stop_token(self, text: str, spans: list[Span]) -> Written:
        """Give the last answer a stop token where the template has none."""
        start, end = spans[-1]
        if text.endswith(self._special_tokens, start, end):
            return Written(text, spans)
        end = start + len(text[start:end].rstrip())
        eos = self._tokenizer.eos_token
        return Written(text[:end] + eos, [*spans[:-1], (start, end + len(eos))])

    def _render(self, messages: Messages, add_generation_prompt: bool = False) -> Rendering:
        """Render; the spans are the template's own marks, empty where it has none."""
        try:
            return self._chat_template.render(messages, add_generation_prompt)
        except TemplateError as error:
            merged = merge_system_message(messages)
            if merged == list(messages):
                raise DatasetError(f"the chat template refuses it: {_first_line(error)}") from error
        try:  # Gemma and some Mistrals have no system role
            return self._chat_template.render(merged, add_generation_prompt)
        except TemplateError as error:
            raise DatasetError(f"the chat template refuses it: {_first_line(error)}") from error


class _Talk:
    """A conversation, and what is known of its renderings: as a whole, and of its first turns.

    Attributes:
        known: (turns, add_generation_prompt) → rendering; what is missing is rendered when needed.
    """

    def __init__(self, messages: Messages, render: Callable[[Messages, bool], Rendering]):
        self.messages = messages
        self.known: dict[tuple[int, bool], Rendering] = {}
        self._render = render

    def up_to(self, turns: int, add_generation_prompt: bool = False) -> Rendering:
        key = turns, add_generation_prompt
        if key not in self.known:
            self.known[key] = self._render(self.messages[:turns], add_generation_prompt)
        return self.known[key]

    def answers(self) -> list[int]:
        """How many turns stand before each answer."""
        return [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]

    def unmarked_answers(self) -> list[int]:
        """As `answers`, of a conversation known as a whole in which the template marks none."""
        whole = self.known.get((len(self.messages), False))
        return self.answers() if whole and not whole[1] else []


def merge_system_message(messages: Messages) -> list[dict[str, str]]:
    """Put a leading system message in front of the first user message.

    >>> merge_system_message([{"role": "system", "content": "Be brief."},
    ...                       {"role": "user", "content": "Hi"}])
    [{'role': 'user', 'content': 'Be brief.\\n\\nHi'}]
    """
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return list(messages)
    content = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": content}, *messages[2:]]


def _answers(example: dict[str, Any]) -> list[Messages]:
    if "chosen" in example:
        return [example["chosen"], example["rejected"]]
    return [example["completion"]]


def _or_error(make: Callable[[], Made]) -> Made | DatasetError:
    try:
        return make()
    except DatasetError as error:
        return error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
