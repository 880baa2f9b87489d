"""
The Modelfile of merged weights: with it, `ollama create NAME` in their folder imports them.

    text = modelfile(source, renderer.prompt_text)

It carries the chat template in Ollama's language (ollama_template.py), the tokens that end an
answer, the recipe's system prompt, the sampling that the base's authors advise, and the licence.
Not covered: quantizing (`ollama create --quantize`), converting to GGUF (llama.cpp does).

The format: https://docs.ollama.com/modelfile
Which architectures it imports: https://github.com/ollama/ollama/tree/main/convert
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.export.ollama_template import Render, ollama_template

NAME = "Modelfile"
# What `ollama create` converts from safetensors by itself, as of August 2026.
IMPORTED = frozenset(
    (
        "LlamaForCausalLM MixtralForCausalLM Ministral3ForCausalLM GemmaForCausalLM "
        "Gemma2ForCausalLM Gemma3ForCausalLM Gemma4ForCausalLM Phi3ForCausalLM Qwen2ForCausalLM "
        "Olmo3ForCausalLM CohereForCausalLM GptOssForCausalLM DeepseekV3ForCausalLM "
        "Glm4MoeLiteForCausalLM Lfm2ForCausalLM Lfm2MoeForCausalLM Qwen3NextForCausalLM "
        "NemotronHForCausalLM"
    ).split()
)
BY_GGUF = (
    "convert the folder with llama.cpp (python convert_hf_to_gguf.py . --outfile model.gguf) and "
    "write FROM ./model.gguf"
)
# Ollama's name of what generation_config.json says.
SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "max_new_tokens": "num_predict",
}
USUAL_CONTEXT = 4096  # tokens; more costs whoever runs it memory for every one of them


@dataclass(frozen=True)
class Source:
    """What a Modelfile is written from.

    Attributes:
        name: What the model is called in a comment: the run's id.
        architecture: As config.json names it: LlamaForCausalLM.
        base_model, license: Of the base; None where no licence is known.
        bos: The token that Ollama puts before a prompt by itself; empty where there is none.
        stops: Texts of the tokens that end an answer.
        system_prompt: The recipe's.
        generation: generation_config.json.
        context_length: Tokens; 0 where the model sets no limit.
        trained_length: Tokens that a row of the training data could have.
    """

    name: str
    architecture: str
    base_model: str
    license: str | None = None
    bos: str = ""
    stops: Sequence[str] = ()
    system_prompt: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    context_length: int = 0
    trained_length: int = 0


def modelfile(source: Source, prompt_text: Render) -> tuple[str, list[str]]:
    """Write a Modelfile.

    Args:
        prompt_text: Renders a conversation with the chat template; see data/rendering.py.

    Returns:
        Its text, and sentences on what Ollama will not do with it as one might expect.
    """
    template = ollama_template(prompt_text, source.bos)
    notes = [*_import_notes(source), *([] if template else [_without_template()])]
    lines = [
        f"# {source.name}, for Ollama. In this folder: ollama create my-model",
        "# Versions of Ollama that import fewer models from safetensors take them as GGUF:",
        f"# {BY_GGUF}",
        "# in place of the next line.",
        *(f"# {note}" for note in notes),
        "FROM .",
        *_template_lines(template, source.bos),
        *(f"PARAMETER stop {_quoted(stop)}" for stop in source.stops),
        *(f"PARAMETER {name} {value}" for name, value in _parameters(source).items()),
        *([f"SYSTEM {_quoted(source.system_prompt)}"] if source.system_prompt else []),
        *_license_lines(source),
    ]
    return "\n".join(lines) + "\n", notes


def _import_notes(source: Source) -> list[str]:
    if source.architecture in IMPORTED:
        return []
    return [
        f"Ollama's own conversion does not know {source.architecture}, so `ollama create` may "
        f"refuse this folder: {BY_GGUF} in the {NAME} in place of FROM ."
    ]


def _without_template() -> str:
    return (
        "The model's chat template does what Ollama's templates cannot express, so the "
        f"{NAME} has none, and Ollama's guess may not fit. Write a TEMPLATE after "
        "chat_template.jinja, or run the model where that is read, as vLLM does."
    )


def _template_lines(template: str | None, bos: str) -> list[str]:
    if template is None:
        return []
    told = [f"# Ollama puts {bos} before it by itself, as the tokenizer does."] if bos else []
    return [*told, f'TEMPLATE """{template}"""']


def _parameters(source: Source) -> dict[str, Any]:
    """What is set beside Ollama's own defaults.

    Greedy decoding is temperature 0 there, and nothing else of the sampling then matters.
    """
    advised = {
        name: source.generation[setting]
        for setting, name in SAMPLING.items()
        if isinstance(source.generation.get(setting), int | float)
    }
    if source.generation.get("do_sample") is False:
        advised = {"temperature": 0, **_only(advised, ("repeat_penalty", "num_predict"))}
    wanted = max(USUAL_CONTEXT, source.trained_length)
    return advised | {"num_ctx": min(source.context_length or wanted, wanted)}


def _only(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}


def _license_lines(source: Source) -> list[str]:
    if not source.license:
        return []
    told = (
        f"The base model {source.base_model} has the licence {source.license}, which these "
        "weights inherit."
    )
    return [f"LICENSE {_quoted(told)}"]


def _quoted(text: str) -> str:
    """A value as the Modelfile's reader takes it: it knows no escapes, only where a value ends."""
    if '"' not in text and "\n" not in text:
        return f'"{text}"'
    inside = text.replace('"""', "'''")
    return f'"""{inside}"""'
