"""Base models in folders: what is found out of them, and what is refused with which sentence."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.tiny_models import CONTEXT, tiny_model
from tuner.base_models.checkpoint import INDEX
from tuner.base_models.lookup import STARTER, SUGGESTED, BaseModel, check_length, find_base_model
from tuner.errors import ModelError, RecipeError
from tuner.recipe import Recipe
from tuner.starter import STARTER_DIR


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that may be spoilt."""
    return Path(shutil.copytree(llama, tmp_path / "my-model"))


def change(folder: Path, **settings: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refusal(name: str | Path) -> str:
    with pytest.raises(ModelError) as error:
        find_base_model(str(name))
    [problem] = error.value.problems
    assert "\n" not in problem
    return problem


def test_a_folder_is_what_its_files_say(folder):
    (folder / "README.md").write_text("---\nlicense: llama3.2\nlicense_link: https://x.y\n---\n")
    model = AutoModelForCausalLM.from_pretrained(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert find_base_model(str(folder)) == BaseModel(
        name=str(folder),
        revision=None,
        folder=folder,
        config=json.loads((folder / "config.json").read_text()),
        parameters=parameters,
        weight_bytes=4 * parameters,
        license="llama3.2",
        license_link="https://x.y",
        gated=False,
        context_length=CONTEXT,
        has_chat_template=True,
    )


def test_a_folder_without_card_and_template_has_none(tmp_path):
    base = find_base_model(str(tiny_model(tmp_path, chat_template=None)))
    assert (base.license, base.license_link, base.has_chat_template) == (None, None, False)


def test_a_list_of_licences_is_no_licence_that_could_be_named(folder):
    (folder / "README.md").write_text("---\nlicense: [mit, apache-2.0]\n---\n")
    assert find_base_model(str(folder)).license is None


def test_the_starter_is_found_wherever_tuner_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / STARTER).mkdir()  # not the one that is meant
    base = find_base_model(STARTER)
    assert (base.name, base.folder, base.revision) == (STARTER, STARTER_DIR, None)
    assert base.has_chat_template and base.parameters * 2 <= base.weight_bytes


@pytest.mark.parametrize(
    "written", ["my-model", "./my-model", "~/my-model", "my-model/", "a/../my-model"]
)
def test_a_folder_is_found_however_its_path_is_written(folder, monkeypatch, written):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    (folder.parent / "a").mkdir()
    base = find_base_model(written)
    assert base.name == written
    assert base.folder is not None and base.folder.samefile(folder)


def test_a_folder_named_like_a_hub_id_comes_before_the_hub(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "shop").mkdir()
    folder.rename(folder.parent / "shop" / "model")
    assert find_base_model("shop/model").folder == Path("shop/model")


@pytest.mark.parametrize(
    "name",
    [
        "./nowhere",
        "../nowhere",
        "/nowhere/model",
        "~/nowhere",
        "~nobody-of-this-name/model",
        "models/shop/llama",
        "https://huggingface.co/Qwen/Qwen3-0.6B",
        pytest.param("/" + "x" * 5000, id="too long"),
        "",
        "  ",
    ],
)
def test_a_path_where_no_folder_is_is_refused_without_asking_the_hub(name):
    said = refusal(name)
    assert said.startswith(f"base_model={name} is not a folder on this machine.")
    assert "starter" in said


@pytest.mark.parametrize(
    "name", [pytest.param("x" * 300, id="long"), "a\0b", "shop/mo del", "shop/..", "shop--x/model"]
)
def test_a_name_that_nothing_can_have_is_a_sentence(name):
    said = refusal(name)
    assert said.startswith(f"There is no model {name} on the Hub")


def test_a_file_is_no_folder(folder):
    assert "is not a folder on this machine" in refusal(folder / "model.safetensors")


def test_a_folder_without_a_config_says_which_folder_is_wanted(tmp_path):
    said = refusal(tmp_path)
    assert said.startswith(f"{tmp_path} has no config.json")
    assert "config.json and model.safetensors" in said


def test_an_adapter_is_no_base_model(folder):
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    assert f"{folder} is an adapter, not a base model" in refusal(folder)


def test_a_config_that_is_no_file_is_a_sentence(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert "config.json cannot be read: Is a directory." in refusal(folder)


def test_a_damaged_config_is_refused(folder):
    (folder / "config.json").write_bytes(b'{"model_type": "llama\xff')
    assert f"The config.json of {folder} is damaged" in refusal(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert f"{folder} has pickled weights only" in refusal(folder)


def test_weights_that_were_cut_off_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    said = refusal(folder)
    assert said.startswith(f"model.safetensors of {folder} is damaged (")
    assert "bytes are there" in said


def test_a_damaged_index_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text('{"weight_map": ')
    assert refusal(folder).startswith(f"{INDEX} of {folder} is damaged.")


def test_code_of_its_own_is_never_run(folder):
    change(folder, model_type="shop", auto_map={"AutoModelForCausalLM": "modeling.Model"})
    (folder / "modeling.py").write_text("raise SystemExit('this code was run')")
    assert f"{folder} needs program code from its own repository" in refusal(folder)


def test_another_kind_of_model_is_refused(folder):
    change(folder, architectures=["LlamaForSequenceClassification"])
    assert "its config.json says LlamaForSequenceClassification" in refusal(folder)


def test_a_model_type_that_is_too_new_is_refused(folder):
    change(folder, model_type="llama99")
    assert "'llama99' model, which the installed transformers does not know" in refusal(folder)


def test_rows_may_fill_the_context_and_no_more(llama):
    base = find_base_model(str(llama))
    check_length(Recipe(base_model=str(llama), max_length=CONTEXT), base)
    with pytest.raises(RecipeError) as error:
        check_length(Recipe(base_model=str(llama), max_length=CONTEXT + 1), base)
    assert str(error.value) == (
        f"max_length={CONTEXT + 1} exceeds the {CONTEXT}-token context of {llama}. "
        f"Set max_length to {CONTEXT} or less."
    )


def test_a_config_that_sets_no_limit_lets_rows_be_of_any_length(folder):
    change(folder, max_position_embeddings=None)
    base = find_base_model(str(folder))
    assert base.context_length == 0
    check_length(Recipe(base_model=str(folder), max_length=1_000_000), base)


def test_suggestions_are_different_models_that_have_the_form_of_a_hub_id():
    names = [name for models in SUGGESTED.values() for name in models]
    assert len(set(names)) == len(names)
    assert all(name == STARTER or name.count("/") == 1 for name in names)
