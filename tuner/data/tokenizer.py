"""
A base model's tokenizer, completed: with a chat template, padding and a stop token.

No token is ever added to the vocabulary: that would resize the model's embeddings unasked.
"""

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tuner.errors import ModelError

# For base models without a template: readable, and without tokens the model has never seen.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}### Instruction:\n{{ message['content'] }}\n\n"
    "{% else %}### Response:\n"
    "{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}\n\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a base model's tokenizer and give it what training needs.

    Raises:
        ModelError: No tokenizer, one without character offsets, without a stop token, or with a
            chat template that is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:
        # Of files that somebody made to be unreadable comes every kind; `tokenizers` has one only.
        raise ModelError(
            f"base_model={name} has no tokenizer that can be loaded ({_first_line(error)}). "
            "Choose a base model that comes with one."
        ) from error
    return complete_tokenizer(tokenizer, name)


def complete_tokenizer(tokenizer: Any, name: str) -> PreTrainedTokenizerBase:
    """Fill in what a base model's tokenizer may lack. See `load_tokenizer`."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"base_model={name} has a slow tokenizer, which cannot say where a token stands in the "
            "text. Choose a base model with a tokenizer.json."
        )
    if tokenizer.eos_token is None:
        raise ModelError(
            f"base_model={name} names no stop token (eos_token), so it could not learn to stop. "
            "Choose another base model."
        )
    if tokenizer.pad_token is None:
        # Safe although it is the stop token: labels are our own, padding is masked in them.
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        bos = "{{ bos_token }}" if adds_bos(tokenizer) else ""
        tokenizer.chat_template = bos + PLAIN_TEMPLATE
    else:
        tokenizer.chat_template = _one_template(tokenizer.chat_template, name)
    return tokenizer


def _one_template(template: Any, name: str) -> str:
    """Of several named ones the default: a name may be a path, and a saved one would be written."""
    if isinstance(template, dict):
        template = template.get("default")
    if not isinstance(template, str):
        raise ModelError(
            f"base_model={name} has no chat template that can be used: it is not text, or none of "
            "several is called default. Choose another base model."
        )
    return template


def adds_bos(tokenizer: Any) -> bool:
    """Whether it puts its beginning-of-sequence token before plain text by itself."""
    if tokenizer.bos_token is None:
        return False
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
