"""
The practice model's tokenizer: byte-level BPE, digits one by one, five special tokens.

Trained on the generated world, the presets' sample data and this repository's own code and text,
so that code, medical and contract text compress too. (The model itself never sees the presets.)
Turns are ChatML-like: <|user|>Hello<|end|><|assistant|>Hello! How can I help you?<|end|>
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 4096
MAX_LENGTH = 2048
PAD, SYSTEM, USER, ASSISTANT, END = (
    "<|pad|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
# Llama 3's pattern with digits alone: sums are learnt digit by digit.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message['role'] == 'assistant' -%}
        {{- '<|assistant|>' -}}
        {%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
    {%- elif message['role'] in ('system', 'user') -%}
        {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
    {%- else -%}
        {{- raise_exception('Roles are system, user, assistant; not ' + message['role'] + '.') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def render(messages: Iterable[dict[str, str]]) -> str:
    """Return what the chat template returns, without Jinja; the tests compare the two."""
    return "".join(f"<|{message['role']}|>{message['content']}{END}" for message in messages)


def repository_texts(root: Path) -> Iterator[str]:
    """Yield the presets' sample rows, then this repository's Python and Markdown files."""
    for path in sorted((root / "presets" / "data").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield from strings_in(json.loads(line))
    for folder in ("tuner", "tests", "docs", "presets"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".md"):
                yield path.read_text(encoding="utf-8")


def strings_in(value: object) -> Iterator[str]:
    """Yield every string inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn the merges from texts and return a tokenizer ready to save."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, SYSTEM, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
