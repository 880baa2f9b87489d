"""A Modelfile says what the tokenizer's chat template says, in Ollama's language."""

import re

import pytest

from tests.tiny_models import CHAT_TEMPLATE, END, tiny_tokenizer
from tuner.data.rendering import Renderer
from tuner.data.tokenizer import complete_tokenizer, load_tokenizer
from tuner.export import go_template
from tuner.export.modelfile import Source, modelfile
from tuner.export.ollama_template import ollama_template
from tuner.starter import STARTER_DIR

# Ways in which chat templates differ; the names say what each does with a system message.
TEMPLATES = {
    "own_turn": CHAT_TEMPLATE,
    "default_text": (
        "{% if messages[0].role != 'system' %}<s>[sys]You are kind.[/sys]{% else %}<s>{% endif %}"
        "{% for m in messages %}{% if m.role == 'system' %}[sys]{{ m.content }}[/sys]"
        "{% elif m.role == 'user' %}Q: {{ m.content|trim }}\n"
        "{% else %}A: {{ m.content|trim }}</s>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}A: {% endif %}"
    ),
    "in_the_first_question": (
        "{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = '<<' + m.content + '>>\n\n' %}"
        "{% elif m.role == 'user' %}<s>[Q] {{ ns.system }}{{ m.content }} [/Q]"
        "{% set ns.system = '' %}{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
    ),
    "in_the_last_question": (
        "{% set ns = namespace(system='') %}<s>{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}"
        "{% elif m.role == 'user' %}[Q] {% if loop.last %}{{ ns.system }}{% endif %}"
        "{{ m.content }}[/Q]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    ),
    "refused": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system.') }}"
        "{% endif %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>model\n{% endif %}"
    ),
    "what_go_would_not_take": (
        '{% for m in messages %}{{ \'{{ """ {\' }}{{ m.role }}}} \\ \t\u200b"|{{ m.content }}'
        "{% endfor %}{{ '{' if add_generation_prompt }}"
    ),
}
INEXPRESSIBLE = {
    "counts": "{% for m in messages %}{{ loop.index }} {{ m.role }} {{ m.content }}{% endfor %}",
    "changes_contents": "{% for m in messages %}{{ m.role }}{{ m.content|upper }}{% endfor %}",
    "forgets": "{{ messages[-1].content }}",
    "refuses_all": "{{ raise_exception('never') }}",
    "shortens_old_answers": (
        "{% for m in messages %}{{ m.role }}: {% if loop.index < 4 and messages|length > 5 %}"
        "…{% endif %}{{ m.content }}\n{% endfor %}"
    ),
}
CONVERSATIONS = [
    ["u"],
    ["s", "u"],
    ["u", "a", "u"],
    ["s", "u", "a", "u"],
    ["s", "u", "a", "u", "a", "u"],
]
ROLES = {"s": "system", "u": "user", "a": "assistant"}


def conversation(roles):
    texts = "Say {{ no }} more.", 'So "it" is;\n\nall of it.', "Été, 冬, 🙂", "a", "b {% c %}", "d"
    return [
        {"role": ROLES[role], "content": text} for role, text in zip(roles, texts, strict=False)
    ]


def renderer(template):
    return Renderer(complete_tokenizer(tiny_tokenizer(template), "tiny"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_translated_template_renders_every_conversation_as_the_original(name):
    original = renderer(TEMPLATES[name])
    translated = ollama_template(original.prompt_text)
    assert translated is not None
    for roles in CONVERSATIONS:
        messages = conversation(roles)
        assert go_template.render(translated, messages) == original.prompt_text(messages)


@pytest.mark.parametrize("template", [None, "starter"])
def test_our_own_templates_are_translated(template):
    tokenizer = load_tokenizer(str(STARTER_DIR)) if template else tiny_tokenizer(None)
    original = Renderer(complete_tokenizer(tokenizer, "ours"))
    translated = ollama_template(original.prompt_text)
    messages = conversation("suau")
    assert go_template.render(translated, messages) == original.prompt_text(messages)


@pytest.mark.parametrize("name", INEXPRESSIBLE)
def test_a_template_that_computes_more_than_go_can_is_not_translated(name):
    assert ollama_template(renderer(INEXPRESSIBLE[name]).prompt_text) is None


def test_the_token_that_ollama_puts_first_is_not_in_the_template():
    original = renderer(TEMPLATES["in_the_last_question"])
    translated = ollama_template(original.prompt_text, bos="<s>")
    messages = conversation("suau")
    assert "<s>" + go_template.render(translated, messages) == original.prompt_text(messages)


def test_an_answer_that_was_begun_is_continued():
    translated = ollama_template(renderer(CHAT_TEMPLATE).prompt_text)
    text = go_template.render(translated, conversation("ua"))
    assert text.endswith('<|im_end|>\n<|im_start|>assistant\nSo "it" is;\n\nall of it.')


def test_messages_of_one_role_are_joined_as_ollama_joins_them():
    messages = [{"role": "user", "content": text} for text in ("a", "b")]
    loop = "{{ range .Messages }}<{{ .Content }}>{{ end }}{{ .System }}"
    assert go_template.render(loop, messages) == "<a\n\nb>"


@pytest.mark.parametrize(
    "template",
    [
        "{{ .Tools }}",
        "{{ range .Messages }}",
        "{{ end }}",
        "{{ if .System }}a{{ else }}b",
        "{{ printf .System }}",
        "{{ .System | len }}",
        "{{ with .System }}{{ end }}",
    ],
)
def test_what_is_not_covered_of_gos_language_is_refused_not_guessed(template):
    with pytest.raises(ValueError, match=r"covered|clos"):
        go_template.render(template, conversation("su"))


def source(**changes):
    given = {"name": "20261123-0915-bot", "architecture": "LlamaForCausalLM"}
    return Source(**(given | {"base_model": "org/base", "stops": [END]} | changes))


def instructions(text):
    """A Modelfile as Ollama reads it: instruction, value; unquoted, comments left out."""
    value = r'("""(?:.|\n)*?"""(?!")|"[^"\n]*"|[^"\n][^\n]*)'
    found, position = [], 0
    while position < len(text):
        match = re.compile(rf"#[^\n]*\n|\n|(\w+) (?:(stop|\w+) )??{value}\n").match(text, position)
        assert match, text[position : position + 80]
        position = match.end()
        if match[1]:
            quoted = match[3]
            marks = 3 if quoted.startswith('"""') else quoted.startswith('"')
            found.append((match[1], quoted[marks : len(quoted) - marks]))
    return found


def written(**changes):
    text, notes = modelfile(source(**changes), renderer(CHAT_TEMPLATE).prompt_text)
    return text, instructions(text), notes


def test_a_modelfile_has_all_that_ollama_needs_to_answer_as_trained():
    prompt = 'You are "Wren".\nSay """less""".'
    text, lines, notes = written(
        system_prompt=prompt,
        license="apache-2.0",
        generation={"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1},
        context_length=32768,
        trained_length=6000,
    )
    values = dict(lines)
    assert notes == []
    assert values["FROM"] == "."
    assert go_template.render(values["TEMPLATE"], conversation("su")) == renderer(
        CHAT_TEMPLATE
    ).prompt_text(conversation("su"))
    assert values["SYSTEM"] == prompt.replace('"""', "'''")
    assert "org/base has the licence apache-2.0" in values["LICENSE"]
    assert f'PARAMETER stop "{END}"\n' in text
    for line in ("temperature 0.7", "top_k 20", "repeat_penalty 1.1", "num_ctx 6000"):
        assert f"PARAMETER {line}\n" in text


def test_greedy_decoding_is_temperature_zero_whatever_else_is_advised():
    text, _, _ = written(generation={"do_sample": False, "temperature": 0.9, "top_p": 0.6})
    assert "PARAMETER temperature 0\n" in text and "top_p" not in text


def test_the_context_is_no_longer_than_the_models():
    assert "PARAMETER num_ctx 512\n" in written(context_length=512, trained_length=1024)[0]


def test_an_architecture_that_ollama_does_not_import_is_told_with_a_way_out():
    text, _, notes = written(architecture="GraniteForCausalLM")
    assert len(notes) == 1
    assert "does not know GraniteForCausalLM" in notes[0] and "convert_hf_to_gguf.py" in notes[0]
    assert f"# {notes[0]}\n" in text


def test_without_a_translation_the_modelfile_has_no_template_and_says_so():
    text, notes = modelfile(source(), renderer(INEXPRESSIBLE["counts"]).prompt_text)
    assert "TEMPLATE" not in dict(instructions(text))
    assert len(notes) == 1 and "cannot express" in notes[0] and f"# {notes[0]}\n" in text
