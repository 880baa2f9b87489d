"""
The one place where text becomes token ids: for training, preview, chat and evaluation.

A conversation is rendered by the tokenizer's chat template, tokenized once, and the tokens of the
assistant's answers and their stop tokens are trained; everything else is context. Which characters
are an answer comes from the template's `{% generation %}` markers, or, without markers, from
rendering prefixes of the conversation and checking that each is a prefix of the next. Where that
fails (a template that rewrites earlier turns), only the last answer is trained.

Not covered: recognising columns (formats.py); whole data sets and their statistics (tokenized.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2.exceptions import TemplateError

from tuner.data.chat_template import ChatTemplate, Span
from tuner.data.tokenizer import adds_bos
from tuner.errors import DatasetError

IGNORE_INDEX = -100  # torch's cross-entropy leaves these positions out


@dataclass(frozen=True)
class Rendered:
    """One example as the model sees it.

    Attributes:
        input_ids: T token ids, cut to max_length.
        labels: T labels: the id itself where it is trained, else IGNORE_INDEX. Not shifted.
        offsets: T character ranges in `text`.
        text: The rendered text, whole.
        cut: Tokens that max_length cut off.
    """

    input_ids: list[int]
    labels: list[int]
    offsets: list[Span]
    text: str
    cut: int

    @property
    def trained(self) -> int:
        """How many tokens are trained."""
        return sum(label != IGNORE_INDEX for label in self.labels)


@dataclass(frozen=True)
class RenderedPair:
    """A prompt and one or two answers to it: DPO's pair, or KTO's single answer (`rejected` empty).

    The answers end on a stop token and are cut so that prompt and answer fit max_length.
    """

    prompt: Rendered
    chosen: Rendered
    rejected: Rendered | None


class Renderer:
    """Renders examples with one tokenizer and one max_length.

    Args:
        tokenizer: From `load_tokenizer` (data/tokenizer.py).
        max_length: Tokens kept of one example, from its start; None keeps all.
    """

    def __init__(self, tokenizer: Any, max_length: int | None = None):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._chat_template = ChatTemplate(tokenizer)

    def render(self, example: dict[str, Any]) -> Rendered:
        """Render one `messages` or `text` example.

        Raises:
            DatasetError: The template refuses the conversation, or finds no answer in it.
        """
        return self.render_batch([example])[0]

    def render_batch(self, examples: Sequence[dict[str, Any]]) -> list[Rendered]:
        """Render several at once: tokenizing in batches uses all cores."""
        pieces = [self._text_and_spans(example) for example in examples]
        encoded = self.tokenizer(
            [text for text, _ in pieces], add_special_tokens=False, return_offsets_mapping=True
        )
        return [
            self._label(text, spans, ids, offsets)
            for (text, spans), ids, offsets in zip(
                pieces, encoded["input_ids"], encoded["offset_mapping"], strict=True
            )
        ]

    def render_pair(self, example: dict[str, Any]) -> RenderedPair:
        """Render one `preference` or `kto` example: a prompt and the answers to it.

        Raises:
            DatasetError: As `render`.
        """
        prompt = example["prompt"]
        prompt_text = self.prompt_text(prompt)
        answers = [example["chosen"], example["rejected"]] if "chosen" in example else None
        rendered = [
            self._render_answer(prompt, prompt_text, answer)
            for answer in answers or [example["completion"]]
        ]
        return RenderedPair(
            prompt=self._tokenized(prompt_text),
            chosen=rendered[0],
            rejected=rendered[1] if answers else None,
        )

    def prompt_text(self, messages: Sequence[dict[str, str]]) -> str:
        """The text after which the assistant speaks: what chat and generation start from."""
        return self._template(messages, add_generation_prompt=True)[0]

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of `prompt_text`; the template brings its own special tokens."""
        ids: list[int] = self.tokenizer(self.prompt_text(messages), add_special_tokens=False)[
            "input_ids"
        ]
        return ids

    @cached_property
    def stop_token_ids(self) -> list[int]:
        """Ids that end an answer: the tokenizer's, and the one the template puts after answers."""
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        last = self.render({"messages": probe})
        trained = [label for label in last.labels if label != IGNORE_INDEX]
        return sorted({self.tokenizer.eos_token_id, *trained[-1:]} & self._special_ids)

    @cached_property
    def _special_ids(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder
        special = {index for index, token in added.items() if token.special}
        return special | set(self.tokenizer.all_special_ids)

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        tokens = self.tokenizer.convert_ids_to_tokens(sorted(self._special_ids))
        return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len)[::-1]))

    def _text_and_spans(self, example: dict[str, Any]) -> tuple[str, list[Span]]:
        if "text" in example:
            text = self._bos + example["text"] + self.tokenizer.eos_token
            return text, [(len(self._bos), len(text))]
        text, spans = self._answer_spans(example["messages"])
        if not spans:
            raise DatasetError("the chat template leaves out the answer")
        spans = [self._with_stop_token(text, span) for span in spans]
        return self._end_on_stop_token(text, spans)

    @cached_property
    def _bos(self) -> str:
        return self.tokenizer.bos_token if adds_bos(self.tokenizer) else ""

    def _answer_spans(self, messages: Sequence[dict[str, str]]) -> tuple[str, list[Span]]:
        text, marked = self._template(messages)
        if marked:
            return text, marked
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        spans = [self._prefix_span(text, messages, index) for index in answers]
        whole = [span for span in spans if span]
        if len(whole) == len(answers):
            return text, whole
        return text, [self._last_answer_span(text, messages)]

    def _prefix_span(
        self, text: str, messages: Sequence[dict[str, str]], index: int
    ) -> Span | None:
        """Where answer `index` stands, if rendering up to it gives prefixes of the whole text."""
        before = self._template(messages[:index], add_generation_prompt=True)[0]
        after = self._template(messages[: index + 1])[0]
        fits = text.startswith(before) and text.startswith(after) and len(before) < len(after)
        return (len(before), len(after)) if fits else None

    def _last_answer_span(self, text: str, messages: Sequence[dict[str, str]]) -> Span:
        before = self._template(messages[:-1], add_generation_prompt=True)[0]
        if text.startswith(before) and len(before) < len(text):
            return len(before), len(text)
        start = text.rfind(messages[-1]["content"].strip())
        if start < 0:
            raise DatasetError("the chat template changes the answer beyond recognition")
        return start, len(text)

    def _with_stop_token(self, text: str, span: Span) -> Span:
        """Move the end of a span onto the stop token: back over white space, or forward to it."""
        start, end = span
        inside = list(self._special_pattern.finditer(text, start, end))
        if inside and not text[inside[-1].end() : end].strip():
            return start, inside[-1].end()
        following = self._special_pattern.match(text, end)
        return (start, following.end()) if following else span

    def _end_on_stop_token(self, text: str, spans: list[Span]) -> tuple[str, list[Span]]:
        """Give the last answer a stop token where the template has none."""
        start, end = spans[-1]
        last = list(self._special_pattern.finditer(text, start, end))
        if last and last[-1].end() == end:
            return text, spans
        end = start + len(text[start:end].rstrip())
        eos = self.tokenizer.eos_token
        return text[:end] + eos, [*spans[:-1], (start, end + len(eos))]

    def _label(self, text: str, spans: list[Span], ids: list[int], offsets: list[Span]) -> Rendered:
        kept = ids[: self.max_length]
        return Rendered(
            input_ids=kept,
            labels=mask_labels(kept, offsets, spans),
            offsets=[(start, end) for start, end in offsets[: len(kept)]],
            text=text,
            cut=len(ids) - len(kept),
        )

    def _render_answer(
        self, prompt: Sequence[dict[str, str]], prompt_text: str, answer: Sequence[dict[str, str]]
    ) -> Rendered:
        """An answer's own tokens, without the prompt's; all of them trained."""
        text, spans = self._text_and_spans({"messages": [*prompt, *answer]})
        if not text.startswith(prompt_text):
            raise DatasetError("the chat template renders the prompt differently with an answer")
        return self._tokenized(text[len(prompt_text) : spans[-1][1]], trained=True)

    def _tokenized(self, text: str, trained: bool = False) -> Rendered:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [(0, len(text))] if trained else []
        return self._label(text, spans, encoded["input_ids"], encoded["offset_mapping"])

    def _template(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = False
    ) -> tuple[str, list[Span]]:
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


def mask_labels(
    input_ids: Sequence[int], offsets: Sequence[Span], spans: Sequence[Span]
) -> list[int]:
    """Copy token ids to labels where the token lies in an answer.

    Args:
        input_ids: T token ids.
        offsets: Character range of each token, at least T of them.
        spans: Character ranges of the answers, ascending.

    Returns:
        T labels; IGNORE_INDEX elsewhere. A token that begins before an answer is context.

    >>> mask_labels([5, 6, 7], [(0, 2), (2, 4), (4, 6)], [(2, 6)])
    [-100, 6, 7]
    """
    labels = [IGNORE_INDEX] * len(input_ids)
    position = 0
    for start, end in spans:
        while position < len(labels) and offsets[position][0] < start:
            position += 1
        while position < len(labels) and offsets[position][0] < end:
            labels[position] = input_ids[position]
            position += 1
    return labels


def merge_system_message(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Put a leading system message in front of the first user message.

    >>> merge_system_message([{"role": "system", "content": "Be brief."},
    ...                       {"role": "user", "content": "Hi"}])
    [{'role': 'user', 'content': 'Be brief.\\n\\nHi'}]
    """
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return list(messages)
    content = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": content}, *messages[2:]]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
