"""
A chat template is a program by a stranger. It is refused in a sentence, whatever it tries, and
training, preview and chat, which all render through one Renderer, neither hang nor fill up.
"""

import json

import pytest

from tests.tiny_models import tiny_tokenizer
from tuner.data import chat_template
from tuner.data.rendering import Renderer
from tuner.data.tokenizer import load_tokenizer
from tuner.errors import DatasetError, ModelError

ASKED = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
CONTENTS = "{% for message in messages %}{{ message.content }}{% endfor %}"
TOO_MUCH = {
    "a loop without end": "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}"
    "{% endfor %}",
    "filters on one another": "{{ range(90000)|map('string')|map('center', 20000)|map('upper')"
    "|map('list')|map('length')|sum }}",
    "a text that doubles": "{% set it = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set it.x = it.x ~ it.x %}{% endfor %}",
    "a list that doubles": "{% set it = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set it.x = it.x + it.x %}{% endfor %}",
    "one huge text": "{{ ('a' * 9000000000)|length }}",
    "a wide number": "{{ '%099999999999d' % 1 }}",
    "a replacement of each letter": "{% set s = 'a' * 1000000 %}{{ s|replace('a', s)|length }}",
    "a long answer": "{{ 'a' * 3000000 }}",
}
REFUSED = {
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{{ messages.__class__.__base__.__subclasses__() }}": "unsafe",
    "{{ cycler.__init__.__globals__ }}": "unsafe",
    "{{ (messages|attr('__class__')).__name__ }}": "",
    "{{ '{0.__class__.__mro__}'.format(messages) }}": "",
    "{{ messages.append(messages) }}": "unsafe",
    "{% include '/etc/passwd' %}": "TypeError",
    "{% import 'os' as os %}": "TypeError",
    "{% extends '../x' %}": "",
    "{{ 10 ** 10 ** 9 }}": "powers",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ 1 + 'a' }}": "TypeError",
    "{{ range(10000000000)|list }}": "OverflowError",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "RecursionError",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "RecursionError",
    "{% for %}": "",
}


def renderer(template):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return Renderer(tokenizer)


@pytest.fixture
def in_short(monkeypatch):
    """Limits that are met soon."""
    monkeypatch.setattr(chat_template, "SECONDS", 0.3)
    monkeypatch.setattr(chat_template, "MEMORY_BYTES", 100 << 20)


@pytest.mark.parametrize("template", TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_a_template_that_never_ends_or_fills_the_memory_is_stopped(in_short, template):
    with pytest.raises(ModelError, match=r"chat template (does not come|takes|makes) "):
        renderer(template).render(ASKED)
    assert renderer(CONTENTS).render(ASKED).text.startswith("ab"), "The next one suffers from it."


def test_many_slow_conversations_are_stopped_as_one_without_end_is(in_short, monkeypatch):
    monkeypatch.setattr(chat_template, "MEAN_SECONDS", 0.0)
    slow = renderer("{% for i in range(90000) %}{% endfor %}" + CONTENTS)
    with pytest.raises(ModelError, match=r"[\d,]+ conversations took"):
        all(slow.render(ASKED) for _ in range(10_000))


@pytest.mark.parametrize(("template", "why"), REFUSED.items())
def test_a_template_that_reaches_out_or_fails_is_refused_for_the_row(template, why):
    with pytest.raises(DatasetError, match=f"the chat template .*{why}") as refused:
        renderer(CONTENTS.replace("{% endfor %}", template + "{% endfor %}")).render(ASKED)
    assert str(refused.value).isprintable()


def test_names_that_are_passed_on_are_no_power():
    with_names = "{% set it = namespace(**{'x': 1}) %}{{ dict(a=1, **{'b': 2})|length }}"
    assert renderer(with_names + CONTENTS).render(ASKED).text.startswith("2ab")


def saved(folder, template, **config):
    """A tokenizer's folder with another template and other settings in it."""
    tiny_tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | config
    path.write_text(json.dumps(settings | ({"chat_template": template} if template else {})))
    return folder


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["../../evil", "/tmp/tuner-evil", "a/b", "..", "x\0y", "CON"])
def test_the_name_of_a_template_becomes_no_path(tmp_path, name):
    named = [{"name": "default", "template": CONTENTS}, {"name": name, "template": "evil"}]
    tokenizer = load_tokenizer(str(saved(tmp_path / "base", named)))
    before = names_in(tmp_path)
    tokenizer.save_pretrained(tmp_path / "deep" / "adapter")
    assert names_in(tmp_path) - before == {
        f"deep/adapter/{name}"
        for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
    }
    assert (tmp_path / "deep/adapter/chat_template.jinja").read_text() == CONTENTS


@pytest.mark.parametrize(
    "template",
    [5, ["x"], [{"name": "../x", "template": "evil"}], {"default": 5}, [{"name": "default"}]],
    ids=str,
)
def test_a_template_that_is_no_text_is_a_sentence(tmp_path, template):
    with pytest.raises(ModelError, match=r"^base_model="):
        load_tokenizer(str(saved(tmp_path / "base", template)))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", "[" * 100_000),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"tokenizer_class": ["a"]}'),
        ("tokenizer_config.json", '{"eos_token": 5}'),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[" * 100_000),
    ],
    ids=lambda text: text[:24],
)
def test_a_tokenizer_made_to_be_unreadable_is_a_sentence(tmp_path, file, content):
    folder = saved(tmp_path / "base", None)
    (folder / file).write_text(content)
    with pytest.raises(ModelError, match=r"^base_model=.* Choose a"):
        load_tokenizer(str(folder))


def test_a_tokenizers_own_code_is_never_run(tmp_path):
    code = {"AutoTokenizer": ["tokenization.Evil", "tokenization.Evil"]}
    folder = saved(tmp_path / "base", CONTENTS, auto_map=code, tokenizer_class="Evil")
    ran = tmp_path / "ran"
    (folder / "tokenization.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(ModelError, match="custom code"):
        load_tokenizer(str(folder))
    assert not ran.exists()
