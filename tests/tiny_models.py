"""
Tiny random-weight base models, one of each family that people fine-tune, with a tokenizer.

    folder = tiny_model(tmp_path, family="mistral")

Hidden size 64, two layers, a vocabulary of 512: made and saved in under a second. Every output
width is a multiple of 32, as bitsandbytes' 4-bit generation wants it on CPUs.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCAB_SIZE = 512
CONTEXT = 512  # tokens that a tiny model can attend to
PAD, END, START = "<|pad|>", "<|im_end|>", "<|im_start|>"

# ChatML, the commonest template in use, without {% generation %} markers: so it is in the wild.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
TOKENS = {"vocab_size": VOCAB_SIZE, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
GROUPED = {"num_key_value_heads": 2}  # two key/value heads of 16: 32 wide
# What a family's config class needs beyond the shape.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": None},
    "phi3": GROUPED | {"original_max_position_embeddings": CONTEXT},
    "gemma2": GROUPED | {"head_dim": 16, "sliding_window": 128},
    "gemma3_text": GROUPED | {"head_dim": 16, "sliding_window": 128},
    "starcoder2": GROUPED | {"sliding_window": None},
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 16},
    "smollm3": GROUPED,
    "granite": GROUPED,
    "gpt_neox": {},
}
TEXTS = [
    "Where is my order? Let me look that up for you.",
    "def add(a: int, b: int) -> int:\n    return a + b",
    "The agreement ends thirty days after written notice.",
    "Does the treatment lower blood pressure in adults?",
]


def tiny_model(
    tmp_path: Path,
    family: str = "llama",
    chat_template: str | None = CHAT_TEMPLATE,
    context: int = CONTEXT,
    dtype: torch.dtype = torch.float32,
    **shape: Any,
) -> Path:
    """Save a tiny model and its tokenizer as Hub folders look.

    Args:
        tmp_path: The folder is made inside.
        family: A key of FAMILIES, which is the `model_type` of its config.
        chat_template: None for a base model that never had one.
        context: Its max_position_embeddings.
        dtype: Of the stored weights.
        shape: Settings of the family's config that differ: `hidden_size=512` is less tiny.

    Returns:
        The folder, named after the family.
    """
    folder = tmp_path / f"tiny-{family}"
    tiny_tokenizer(chat_template, context).save_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family, context, **shape))
    model.to(dtype).save_pretrained(folder)
    return folder


def tiny_config(family: str, context: int = CONTEXT, **shape: Any) -> Any:
    """The family's own config class, shrunk; `shape` has the last word."""
    settings = SHAPE | FAMILIES[family] | {"max_position_embeddings": context} | TOKENS | shape
    return AutoConfig.for_model(family, **settings)


def tiny_tokenizer(
    chat_template: str | None = CHAT_TEMPLATE, context: int = CONTEXT
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most VOCAB_SIZE tokens; it can write any text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        chat_template=chat_template,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
