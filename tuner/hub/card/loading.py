"""
How a published model is loaded: with transformers and peft, vLLM, LangChain, Ollama.

    loading(facts, format)      Markdown with code that can be copied

Names and prompts go into the code as literals of its language, never as they are.
"""

import json
import shlex

from tuner.hub.card.facts import Facts
from tuner.hub.card.markdown import cleaned, code, fenced, section
from tuner.hub.card.prompt_format import PromptFormat, messages_of

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM reserves memory for
STARTER_FOLDER = "tuner/starter/model"
GGUF = (
    "An architecture that Ollama does not import from safetensors is converted by llama.cpp "
    "(`python convert_hf_to_gguf.py . --outfile model.gguf`); write `FROM ./model.gguf` then."
)
LINE = 88  # characters of code that are read without scrolling


def loading(facts: Facts, found: PromptFormat | None) -> str:
    """The section's parts, from the plainest way to the most convenient."""
    transformers = "transformers" if facts.loads_alone else "transformers and peft"
    return "\n\n".join(
        part
        for part in (
            _base_note(facts),
            section("The prompt", _prompt(facts, found), level=3),
            section(transformers, fenced(_transformers(facts, found), "python"), level=3),
            section("vLLM", _vllm(facts), level=3),
            section("LangChain", _langchain(facts), level=3),
            section("Ollama", _ollama(facts, found), level=3),
        )
        if part
    )


def _base_note(facts: Facts) -> str:
    if facts.loads_alone or facts.base.hub_id:
        return ""
    if facts.base.is_starter:
        return (
            "Its base is the practice model that comes with Tuner and is not on the Hub: "
            f"{code(STARTER_FOLDER)} in Tuner's own folder, from where the code below is run."
        )
    return (
        f"Its base, {code(facts.base.name)}, was a folder on the machine where it was trained. "
        "The code below wants that folder; another model's weights do not fit."
    )


def _prompt(facts: Facts, found: PromptFormat | None) -> str:
    if facts.trains_plain_text:
        return "It continues plain text; there is no chat format, and no system prompt."
    if found is None:
        return "Conversations are written by the tokenizer's chat template, which is in this repo."
    stop = f" An answer ends with {code(found.stop)}." if found.stop else ""
    return (
        f"Conversations are written like this, which the tokenizer's chat template does.{stop}\n\n"
        + fenced(found.text, "text")
    )


def _transformers(facts: Facts, found: PromptFormat | None) -> str:
    repo = _literal(facts.repo)
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    if facts.loads_alone:
        lines.append(f'model = AutoModelForCausalLM.from_pretrained({repo}, dtype="auto")')
    else:
        lines = ["from peft import PeftModel", *lines, *_load_base(facts)]
        lines.append(f"model = PeftModel.from_pretrained(base, {repo})")
    lines += [f"tokenizer = AutoTokenizer.from_pretrained({repo})", "", *_ask(facts)]
    ends = ""
    if found and found.stop and not facts.trains_plain_text:
        lines.append(f"stop = tokenizer.convert_tokens_to_ids({_literal(found.stop)})")
        ends = ", eos_token_id=stop"
    lines += [
        f"output = model.generate(**inputs, max_new_tokens=200{ends})",
        'answer = output[0, inputs["input_ids"].shape[1] :]',
        "print(tokenizer.decode(answer, skip_special_tokens=True))",
    ]
    return "\n".join(lines)


def _load_base(facts: Facts) -> list[str]:
    revision = facts.base.revision
    pinned = f", revision={_literal(revision)}" if revision and facts.base.hub_id else ""
    call = f'AutoModelForCausalLM.from_pretrained({_literal(_base(facts))}{pinned}, dtype="auto")'
    if len(call) <= LINE:
        return [f"base = {call}"]
    inside = call.removeprefix("AutoModelForCausalLM.from_pretrained(").removesuffix(")")
    return ["base = AutoModelForCausalLM.from_pretrained(", f"    {inside}", ")"]


def _base(facts: Facts) -> str:
    return STARTER_FOLDER if facts.base.is_starter else facts.base.name


def _ask(facts: Facts) -> list[str]:
    messages = messages_of(facts)[:-1]
    if facts.trains_plain_text:
        question = _literal(messages[-1]["content"])
        return [f'inputs = tokenizer({question}, return_tensors="pt").to(model.device)']
    return [
        "messages = [",
        *(
            f'    {{"role": {_literal(m["role"])}, "content": {_literal(m["content"])}}},'
            for m in messages
        ),
        "]",
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ").to(model.device)",
    ]


def _vllm(facts: Facts) -> str:
    repo = shlex.quote(cleaned(facts.repo))
    if facts.loads_alone:
        return fenced(f"vllm serve {repo}", "sh")
    if facts.recipe.adapter == "dora":
        return (
            "vLLM loads no DoRA adapters. Merge it as under Ollama below, then: "
            "`vllm serve ./merged`."
        )
    rank = next((rank for rank in VLLM_RANKS if rank >= facts.recipe.lora.r), facts.recipe.lora.r)
    revision = facts.base.revision if facts.base.hub_id else None
    served = shlex.quote(f"{facts.name}={facts.repo}")
    lines = [
        f"vllm serve {shlex.quote(_base(facts))}"
        + (f" --revision {shlex.quote(revision)}" if revision else ""),
        f"    --enable-lora --max-lora-rank {rank} --lora-modules {served}",
        f"    --tokenizer {repo}",
    ]
    return fenced(" \\\n".join(lines), "sh")


def _langchain(facts: Facts) -> str:
    told = "With `model` and `tokenizer` from above (`pip install langchain-huggingface`):"
    lines = [
        "from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline",
        "from transformers import pipeline",
        "",
        "pipe = pipeline(",
        '    "text-generation", model=model, tokenizer=tokenizer, max_new_tokens=200,',
        "    return_full_text=False,",
        ")",
        "llm = HuggingFacePipeline(pipeline=pipe)",
    ]
    if facts.trains_plain_text:
        return f"{told}\n\n" + fenced("\n".join([*lines, 'print(llm.invoke("…"))']), "python")
    return f"{told}\n\n" + fenced(
        "\n".join(
            [
                *lines,
                "chat = ChatHuggingFace(llm=llm, tokenizer=tokenizer)",
                'turns = [(turn["role"], turn["content"]) for turn in messages]',
                "print(chat.invoke(turns).content)",
            ]
        ),
        "python",
    )


def _ollama(facts: Facts, found: PromptFormat | None) -> str:
    create = f"ollama create {shlex.quote(facts.name.lower())} -f Modelfile"
    if not facts.loads_alone:
        merging = 'model.merge_and_unload().save_pretrained("merged")'
        first = [
            "It takes merged weights. After the code under transformers and peft:",
            fenced(f'{merging}\ntokenizer.save_pretrained("merged")', "python"),
            "Then, in the folder `merged`, with this `Modelfile`:",
        ]
        return "\n\n".join([*first, _modelfile(facts, found), fenced(create, "sh"), GGUF])
    folder = shlex.quote(f"./{facts.name}")
    download = f"hf download {shlex.quote(facts.repo)} --local-dir {folder}"
    steps = fenced("\n".join([download, f"cd {folder}", create]), "sh")
    if facts.merged:
        return "\n\n".join(["With the `Modelfile` that is in this repo:", steps, GGUF])
    told = "With this `Modelfile` in the downloaded folder:"
    return "\n\n".join([told, _modelfile(facts, found), steps, GGUF])


def _modelfile(facts: Facts, found: PromptFormat | None) -> str:
    """Its reader knows no escapes: what would end a value is left out, or said otherwise."""
    lines, system = ["FROM ."], cleaned(facts.recipe.dataset.system_prompt or "")
    if found and not facts.trains_plain_text:
        if found.ollama:
            lines.append(f'TEMPLATE """{found.ollama}"""')
        if found.stop and '"' not in found.stop:
            lines.append(f'PARAMETER stop "{found.stop}"')
        if system:
            inside = system.replace('"""', "'''")
            lines.append(f'SYSTEM """{inside}"""')
    return fenced("\n".join(lines))


def _literal(value: str) -> str:
    """A string of Python's; JSON's are."""
    return json.dumps(cleaned(value), ensure_ascii=False)
