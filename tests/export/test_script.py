"""The exported script: run alone it is the run again, and its labels and settings are the run's."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from tests.export.prepared_runs import PAIRS, TEXTS, prepared_run, rows_of
from tests.tiny_models import CHAT_TEMPLATE, tiny_model
from tests.training.forked_runs import train_all
from tuner.data.rendering import Renderer
from tuner.data.stored import load_examples
from tuner.data.tokenized import tokenize
from tuner.data.tokenizer import load_tokenizer
from tuner.errors import RunError
from tuner.export.literals import literal
from tuner.export.rows import tokenizing, write_rows
from tuner.export.script import readme, training_script
from tuner.export.script_text import Script
from tuner.models.loading import quantization_config
from tuner.recipe import make_recipe
from tuner.runs.store import Run, RunStore
from tuner.starter import STARTER_DIR
from tuner.training.model import lora_config
from tuner.training.trainer import TRAINERS, training_arguments

REPOSITORY = Path(__file__).parents[2]
LENGTH = 200  # tokens; some conversations have more
HOSTILE = "Be \"brief\" \"\"\" and '''kind''' \\ {x} {{ y }} {% if z %}\n#\x85 \\N{DASH} end\\"
QUESTION = "Where is order 74?"


def write(files: dict[str, bytes | str], folder: Path) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.fixture(scope="module")
def completed(tmp_path_factory) -> Run:
    """A real run on the practice model, with dropout, so that every random number matters."""
    root = tmp_path_factory.mktemp("completed")
    rows = [
        {"question": f"Where is order {n * 37}?", "answer": f"Order {n * 37} left on day {n}."}
        for n in range(32)
    ]
    (root / "orders.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    recipe = make_recipe(
        {
            "base_model": "starter",
            "dataset": {"source": str(root / "orders.jsonl"), "system_prompt": HOSTILE},
            "dtype": "float32",
            "max_length": 128,
            "batch_size": 4,
            "micro_batch_size": 2,
            "learning_rate": 5e-3,
            "max_steps": 6,
            "eval_steps": 2,
            "lora": {"lora_dropout": 0.1},
            "sample_prompts": [QUESTION],
            "sample_max_new_tokens": 12,
        }
    )
    run = RunStore(root / "runs").create(recipe, name="orders")
    train_all([run])
    assert run.status()["state"] == "completed", run.log_path.read_text()[-3000:]
    return run


@pytest.fixture(scope="module")
def files(completed) -> dict[str, bytes | str]:
    return training_script(completed)


@pytest.fixture(scope="module")
def exported(files, tmp_path_factory) -> Path:
    """The script's folder after it ran: in a process that knows nothing of this project."""
    folder = write(files, tmp_path_factory.mktemp("exported"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", str(folder / "train.py")],
        check=False,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "said.txt").write_text(done.stdout)
    return folder


def test_the_script_run_alone_has_the_runs_loss_curves(completed, exported):
    state = json.loads((exported / "output" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    held_out = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]

    events = completed.events()[0]
    assert losses == pytest.approx(
        [event["loss"] for event in events if event["kind"] == "metric"], rel=1e-3
    )
    # The script's is transformers' mean of its batches' means, the run's the mean of all tokens.
    assert held_out == pytest.approx(
        [event["eval_loss"] for event in events if event["kind"] == "eval" and event["step"]],
        rel=1e-2,
    )
    assert len(losses) == 6 and len(held_out) == 3


def test_the_scripts_adapter_loads_with_plain_peft_and_answers_as_the_runs(completed, exported):
    def answer_ids(adapter: Path) -> list[int]:
        base = AutoModelForCausalLM.from_pretrained(STARTER_DIR)
        model = PeftModel.from_pretrained(base, adapter).eval()
        tokenizer = AutoTokenizer.from_pretrained(adapter)
        messages = [{"role": "system", "content": HOSTILE}, {"role": "user", "content": QUESTION}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        made = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)
        return made[0, ids.shape[1] :].tolist()

    theirs = answer_ids(completed.adapter_dir)
    assert len(theirs) > 2
    assert answer_ids(exported / "output" / "adapter") == theirs
    samples = [event["text"] for event in completed.events()[0] if event["kind"] == "sample"]
    assert samples[-1] and samples[-1] in (exported / "said.txt").read_text()


def test_the_export_holds_what_it_needs_and_nothing_of_this_machine(files, completed):
    names = set(files)
    assert {"train.py", "requirements.txt", "README.md", "data/train.jsonl"} < names
    assert {"base/model.safetensors", "base/config.json", "base/tokenizer.json"} < names
    assert "chat_template.jinja" not in names
    pins = dict(line.split("==") for line in str(files["requirements.txt"]).split())
    assert pins["trl"] == completed.result()["versions"]["trl"]
    assert "bitsandbytes" not in pins and "+" not in pins["torch"]
    small = b"".join(
        content.encode() if isinstance(content, str) else content
        for name, content in files.items()
        if not name.startswith("base/")
    )
    for private in (str(completed.dir), str(Path.home()), "orders.jsonl", "tuner."):
        assert private.encode() not in small


def test_peoples_text_stays_text_in_the_script(files):
    tree = ast.parse(files["train.py"])

    assigned = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(assigned["SYSTEM_PROMPT"]) == HOSTILE


@pytest.mark.parametrize("column", [0, 60])
@pytest.mark.parametrize(
    "value",
    [
        HOSTILE,
        HOSTILE * 9,
        "'",
        '"\'"',
        "a\\'b\\\"c",
        "\ud800\u2028\u202e",
        "x" * 300,
        "",
        " " * 200,
        [HOSTILE * 3, "b"],
        [],
        ["k"] * 90,
    ],
)
def test_a_literal_is_read_back_as_the_value_it_was(value, column):
    written = literal(value, column)

    assert ast.literal_eval(written) == value
    assert written.isprintable() or "\n" in written


METHODS = {
    "lora": {},
    "rslora": {"lora": {"use_rslora": True, "target_modules": ["q_proj", "v_proj"]}},
    "nf4": {"quantization": "nf4", "dtype": "bfloat16", "optim": "paged_adamw_8bit"},
    "int8": {"quantization": "int8", "dtype": "float16", "gradient_checkpointing": True},
    "dora": {"adapter": "dora", "neftune_noise_alpha": 5, "lr_scheduler_type": "linear"},
    "full": {"adapter": "none", "max_steps": None, "num_train_epochs": 1.5, "warmup_steps": 4},
    "packing": {"packing": True, "early_stopping_patience": 2},
    "dpo": {"objective": "dpo", "beta": 0.3, "dtype": "bfloat16"},
    "kto": {"objective": "kto", "weight_decay": 0.01},
    "all rows": {"dataset": {"eval_fraction": 0}},
    "sparse": {"save_steps": 3, "eval_steps": 2, "load_best_model_at_end": True},
}
# Who keeps the best checkpoint and where they lie differ; what is computed may not.
OWN = {"output_dir", "load_best_model_at_end", "save_total_limit", "disable_tqdm", "logging_dir"}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS.keys())
def test_every_methods_script_has_the_settings_that_training_has(settings, tmp_path, base):
    run = prepared_run(tmp_path, base, **settings)
    recipe = run.recipe()
    script = Script(run, rows_of(run)[0])

    made = executed(script, base)

    model = SimpleNamespace(device=torch.device("cpu"))
    config = TRAINERS[recipe.objective][1]
    evaluation = recipe.dataset.eval_fraction or None
    expected = config(**training_arguments(recipe, model, evaluation, tmp_path / "c")).to_dict()
    idle = OWN | (set() if recipe.packing else {"eval_packing"})
    idle |= set() if evaluation else {"greater_is_better", "eval_steps"}
    given = made["trainer"]["args"].to_dict()
    assert {key for key in expected if given[key] != expected[key]} <= idle
    assert ("eval_dataset" in made["trainer"]) is bool(evaluation)
    if recipe.adapter != "none":
        assert made["adapter"].to_dict() == lora_config(recipe).to_dict()
    found = made["base"].get("quantization_config")
    wanted = quantization_config(recipe, getattr(torch, recipe.dtype))
    assert (found and found.to_dict()) == (wanted and wanted.to_dict())
    assert isinstance(found, BitsAndBytesConfig | None)
    assert made["base"]["dtype"] == getattr(torch, recipe.dtype)


def executed(script: Script, base: Path) -> dict[str, dict]:
    """What the script gives to the libraries, which are real but for what would load or train."""
    made: dict[str, dict] = {}
    names = {"__file__": "train.py", "train_rows": "rows", "eval_rows": "rows"}
    exec(script.block("imports"), names)  # noqa: S102 (our own text)

    class Taken:
        def __init__(self, **arguments):
            made["trainer"] = arguments

    class Model(torch.nn.Module):
        config = SimpleNamespace()

        @classmethod
        def from_pretrained(cls, name, **arguments):
            made["base"] = arguments
            return cls()

        def print_trainable_parameters(self): ...

    def get_peft_model(model, config):
        made["adapter"] = config
        return model

    trl_trainer = script.values["trl_trainer"]
    names |= {trl_trainer: Taken, "AutoModelForCausalLM": Model, "get_peft_model": get_peft_model}
    os.environ["BASE_MODEL"] = str(base)
    try:
        for block in ("settings", "tokenizer", "model", "trainer"):
            exec(compile(script.block(block), block, "exec"), names)  # noqa: S102 (the same)
    finally:
        del os.environ["BASE_MODEL"]
    return made


def test_a_base_from_the_hub_is_asked_for_at_the_runs_commit(tmp_path, base):
    run = prepared_run(tmp_path, base)
    facts = rows_of(run)[0]
    named = {"base_model": "someone/model", "revision": "0" * 40}
    run.save_recipe(run.recipe().model_copy(update=named))
    script = Script(run, facts)

    made = executed(script, base)

    assert made["base"]["revision"] == "0" * 40
    assert '"BASE_MODEL", "someone/model")' in script.block("settings")
    assert "is_dir()" not in script.text()
    assert "`someone/model`" in readme(run, script, facts)


def test_every_methods_script_is_laid_out_as_a_formatter_would(tmp_path, base):
    for number, settings in enumerate(METHODS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = prepared_run(folder, base, **settings)
        (folder / "train.py").write_text(Script(run, rows_of(run)[0]).text())

    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--line-length=100", str(tmp_path)]
    select = "--select=E,W,F,I,B,UP,SIM,PIE,RET"
    for command in (["format", "--diff"], ["check", select, "--no-cache"]):
        done = subprocess.run([*ruff, *command, *options], check=False, capture_output=True)
        assert done.returncode == 0, done.stdout.decode()


def conversations(turns: int) -> list[dict]:
    """Rows of which some are cut, and some have no room for an answer."""
    rows = []
    for n in range(30):
        messages = [{"role": "system", "content": "Be brief."}]
        for turn in range(turns):
            messages.append(
                {"role": "user", "content": f"Order {n}, {turn}? " + "Now! " * (n % 12)}
            )
            messages.append({"role": "assistant", "content": f"Order {n} left on day {turn}."})
        rows.append({"messages": messages})
    for n, row in enumerate(rows[-9:]):
        row["messages"][1]["content"] = f"Where is {n}? " * 60
    return rows


MARKED = CHAT_TEMPLATE.replace(
    "{{ message['content'] }}<|im_end|>",
    "{% if message['role'] == 'assistant' %}SAY: {% generation %}{{ message['content'] }}"
    "{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}<|im_end|>",
)
MARKED_WITH_STOP = MARKED.replace("{% endgeneration %}", "<|im_end|>{% endgeneration %}").replace(
    "{% endif %}<|im_end|>", "<|im_end|>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role.') }}{% endif %}"
    + CHAT_TEMPLATE
)
NO_STOP = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
REWRITING = CHAT_TEMPLATE.replace(
    "{{ message['content'] }}",
    "{% if loop.last or message['role'] != 'assistant' %}{{ message['content'] }}"
    "{% else %}...{% endif %}",
)


@pytest.mark.parametrize(
    ("template", "rows", "settings", "found"),
    [
        (CHAT_TEMPLATE, conversations(2), {}, ("prefix", "stop")),
        (CHAT_TEMPLATE, conversations(2), {"packing": True}, ("prefix", "stop")),
        (MARKED, conversations(2), {}, ("marks", "stop")),
        (MARKED_WITH_STOP, conversations(2), {}, ("marks", "eos")),
        (NO_SYSTEM, conversations(1), {}, ("prefix", "stop")),
        (NO_STOP, conversations(2), {}, ("prefix", "eos")),
        (REWRITING, conversations(2), {}, ("checked", "stop")),
        (None, conversations(2), {}, ("prefix", "stop")),
        (CHAT_TEMPLATE, PAIRS, {"objective": "dpo"}, ("prefix", "stop")),
        (NO_STOP, PAIRS, {"objective": "dpo"}, ("prefix", "eos")),
        (CHAT_TEMPLATE, TEXTS, {}, ("all", "eos")),
    ],
    ids="chatml packing marked stop-marked no-system no-stop rewriting none dpo dpo-no-stop "
    "text".split(),
)
def test_the_scripts_own_code_makes_every_rows_tokens_and_labels(
    template, rows, settings, found, tmp_path
):
    base = tiny_model(tmp_path, chat_template=template)
    run = prepared_run(tmp_path, base, rows, max_length=LENGTH, **settings)

    facts, files = rows_of(run)

    tokenizer = load_tokenizer(str(base))
    stored = [json.loads(line) for line in files["data/train.jsonl"].splitlines()]
    script_tokenize = tokenizing(facts, tokenizer, LENGTH)
    made = [script_tokenize(row) for row in stored]
    if "labels" in made[0]:  # trl cuts these at max_length
        made = [{name: ids[:LENGTH] for name, ids in row.items()} for row in made]
    trained = tokenize(load_examples(run.data_dir, "train"), Renderer(tokenizer, LENGTH))[0]
    assert made == list(trained)
    assert (facts.labels, facts.ending) == found
    assert facts.train_rows == len(trained) > 8
    if rows is not TEXTS and rows is not PAIRS:
        assert len(trained) < len(load_examples(run.data_dir, "train"))
    assert (facts.chat_template is None) is (template is not None)
    assert facts.merges_system is (template is NO_SYSTEM)


def test_labels_that_plain_code_cannot_repeat_are_refused_with_a_sentence(tmp_path):
    # Marked answers that do not begin where the prompt ends, and no stop token to end them.
    endless = MARKED.replace("<|im_end|>", "")
    base = tiny_model(tmp_path, chat_template=endless)
    run = prepared_run(tmp_path, base, conversations(2), max_length=LENGTH)

    with pytest.raises(RunError, match="chat template cannot be repeated"):
        write_rows(run, tmp_path)


def test_a_run_that_has_decided_nothing_yet_has_no_script(tmp_path, base):
    recipe = make_recipe({"base_model": str(base), "dataset": {"source": "rows.jsonl"}})
    run = RunStore(tmp_path).create(recipe)

    with pytest.raises(RunError, match=r"micro_batch_size.*still auto"):
        training_script(run)
