"""Looking a model up on the Hub: the real client against a Hub on this machine."""

import os
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tests.hub_server import COMMIT, MODEL, Fault, Hub
from tests.tiny_models import tiny_config
from tuner.base_models import hub as hub_lookup
from tuner.base_models.checkpoint import SINGLE
from tuner.base_models.lookup import BaseModel, find_base_model
from tuner.errors import ModelError

OTHER_COMMIT = COMMIT[::-1]
TOKEN = "hf_" + "secret" * 6
FIRST_BYTES = 100_001  # what the client asks of a file in order to find its header
PATIENCE = 0.3  # seconds, instead of the ten that a person waits


def download(hub: Hub, revision: str = COMMIT) -> Path:
    """Put the model into the cache as a run does, or as `revision="main"` would."""
    paths = [hf_hub_download(MODEL, path.name, revision=revision) for path in hub.folder.iterdir()]
    hub.asked.clear()
    return Path(paths[0]).parent


def refusal(name: str = MODEL, **given: Any) -> str:
    with pytest.raises(ModelError) as error:
        find_base_model(name, token=TOKEN, **given)
    [problem] = error.value.problems
    assert "\n" not in problem
    assert TOKEN not in "".join(traceback.format_exception(error.value))
    return problem


def test_a_model_on_the_hub_is_what_its_files_say(hub, llama):
    hub.page = {"cardData": {"license": "other", "license_link": "https://x.y"}, "gated": "manual"}
    local = find_base_model(str(llama))
    assert find_base_model(MODEL) == BaseModel(
        name=MODEL,
        revision=COMMIT,
        folder=None,
        config=local.config,
        parameters=local.parameters,
        weight_bytes=local.weight_bytes,
        license="other",
        license_link="https://x.y",
        gated=True,
        context_length=local.context_length,
        has_chat_template=True,
    )


def test_shards_are_added_up(hub):
    model = AutoModelForCausalLM.from_config(tiny_config("qwen2"))
    shutil.rmtree(hub.folder)
    model.save_pretrained(hub.folder, max_shard_size="80KB")
    assert len(list(hub.folder.glob("*.safetensors"))) > 3
    base = find_base_model(MODEL)
    assert base.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (base.license, base.gated, base.has_chat_template) == (None, False, False)


def test_of_the_weights_only_the_first_bytes_are_asked_for_and_nothing_is_kept(hub, cache):
    assert (hub.folder / SINGLE).stat().st_size > 4 * FIRST_BYTES
    find_base_model(MODEL)
    assert [(asked.path, asked.range) for asked in hub.asked] == [
        (f"/api/models/{MODEL}", None),
        (f"/{MODEL}/resolve/{COMMIT}/config.json", None),
        (f"/{MODEL}/resolve/{COMMIT}/{SINGLE}", f"bytes=0-{FIRST_BYTES - 1}"),
    ]
    assert not cache.exists()


def test_a_header_that_is_longer_than_the_first_bytes_is_asked_for_again(hub):
    tensors = {f"model.layers.{n}.{'x' * 40}.weight": torch.zeros(2) for n in range(1500)}
    save_file(tensors, hub.folder / SINGLE)
    assert find_base_model(MODEL).parameters == 3000
    assert [asked.range is not None for asked in hub.asked] == [False, False, True, True]


def test_config_and_weights_are_those_of_the_commit_that_the_revision_names(hub):
    assert find_base_model(MODEL, revision="refs/pr/1").revision == COMMIT
    first, *others = [asked.path for asked in hub.asked]
    assert first == f"/api/models/{MODEL}/revision/refs%2Fpr%2F1"
    assert len(others) == 2 and all(f"/resolve/{COMMIT}/" in path for path in others)


@pytest.mark.parametrize(
    ("page", "known"),
    [
        ({"config": {"tokenizer_config": {"chat_template": "{{ messages }}"}}}, True),
        ({"config": {"chat_template_jinja": "{{ messages }}"}}, True),
        ({"config": {"tokenizer_config": {}}}, False),
        ({"config": {"tokenizer_config": None}}, False),
        ({"config": None}, False),
    ],
)
def test_a_chat_template_is_found_where_the_page_has_it(hub, page, known):
    for path in hub.folder.glob("chat_template.jinja"):
        path.unlink()
    hub.page = page
    assert find_base_model(MODEL).has_chat_template is known


def test_a_token_goes_to_the_hub_with_every_request(hub):
    find_base_model(MODEL, token=TOKEN)
    assert [asked.token for asked in hub.asked] == [f"Bearer {TOKEN}"] * 3


def test_nobody_who_is_not_signed_in_sends_a_token(hub):
    find_base_model(MODEL)
    assert [asked.token for asked in hub.asked] == [None] * 3


def test_a_token_is_not_handed_on_to_the_storage_that_the_hub_redirects_to(hub, llama):
    hub.storage = Hub(hub.folder)
    try:
        base = find_base_model(MODEL, token=TOKEN)
    finally:
        hub.storage.close()
    assert base.parameters == find_base_model(str(llama)).parameters
    [asked] = hub.storage.asked
    assert asked.token is None and asked.range is not None


REFUSED = {
    "missing": (Fault(404, "RepoNotFound"), f"There is no model {MODEL} on the Hub that this"),
    "not for strangers": (Fault(401, "RepoNotFound"), f"There is no model {MODEL} on the Hub"),
    "gated": (Fault(403, "GatedRepo"), f"{MODEL} is gated: its authors want their licence"),
    "no such revision": (Fault(404, "RevisionNotFound"), f"{MODEL} has no revision v2. Leave"),
    "a bad token": (
        Fault(401, message="Invalid credentials in Authorization header"),
        f"The Hub does not let this account read {MODEL} (401). Sign in again",
    ),
    "no rights": (Fault(403), f"The Hub does not let this account read {MODEL} (403)"),
    "disabled": (
        Fault(403, message="Access to this resource is disabled."),
        f"The Hub does not let this account read {MODEL} (403)",
    ),
    "a bad request": (Fault(400), f"{MODEL} cannot be looked up: the Hub answered 400"),
    "too many": (Fault(429), "the Hub asks to slow down (429). Try again in a few minutes"),
    "broken": (Fault(500), "the Hub is out of order (500). Try again later"),
    "overloaded": (Fault(503), "the Hub is out of order (503). Try again later"),
    "a token told": (Fault(418, message=f"{TOKEN} is bad", body=TOKEN.encode()), "answered 418"),
}


@pytest.mark.parametrize(("fault", "said"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("part", ["/api/", "config.json", ".safetensors"])
def test_what_the_hub_refuses_is_a_sentence_without_the_token(hub, part, fault, said):
    hub.faults = {part: fault}
    assert said in refusal(revision="v2")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Qwen/Qwen3-0.6", "Did you mean Qwen/Qwen3-0.6B?"),
        ("smollm2-135m-instruct", "Did you mean HuggingFaceTB/SmolLM2-135M-Instruct?"),
        ("me/Mistral-7B-Instruct-v0.3", "Did you mean mistralai/Mistral-7B-Instruct-v0.3?"),
        ("Starter", "Did you mean starter?"),
        ("shop/unlike-any-other", "Check its name, or choose starter."),
    ],
)
def test_a_name_that_does_not_exist_gets_the_nearest_suggestion(hub, name, hint):
    hub.faults = {"/api/": Fault(404, "RepoNotFound")}
    assert refusal(name).endswith(hint)


def test_a_suggestion_that_the_hub_lacks_is_not_suggested_in_its_place(hub):
    hub.faults = {"/api/": Fault(404, "RepoNotFound")}
    assert "Did you mean Qwen/Qwen3-0.6B?" not in refusal("Qwen/Qwen3-0.6B")


def test_a_gated_models_licence_is_where_its_page_is(hub):
    hub.faults = {"/resolve/": Fault(403, "GatedRepo")}  # the page itself can be read
    assert f"Open https://huggingface.co/{MODEL}, accept it" in refusal()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["config.json", "pytorch_model.bin"], "has pickled weights only"),
        (["adapter_config.json", "adapter_model.safetensors"], "is an adapter, not a base model"),
        (["config.json"], "has no safetensors weights"),
        (["config.json", "model-00001-of-00002.safetensors"], "no model.safetensors.index.json"),
        ([SINGLE], "has no config.json on the Hub"),
        ([], "has no safetensors weights"),
    ],
)
def test_what_the_list_of_files_tells_is_refused_without_opening_any(hub, files, said):
    hub.page = {"siblings": [{"rfilename": name} for name in files]}
    assert said in refusal()
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"model_type": "x1", "auto_map": {"AutoModel": "x.X"}}', "needs program code from its"),
        ('{"model_type": "t5", "architectures": ["T5Model"]}', "its config.json says T5Model"),
        ('{"model_type": "x1"}', "is a 'x1' model"),
        ('{"model_type": ', f"The config.json of {MODEL} is damaged"),
        ("[]", f"The config.json of {MODEL} holds no settings"),
    ],
)
def test_what_the_config_tells_is_refused_before_the_weights_are_asked_for(hub, config, said):
    (hub.folder / "config.json").write_text(config)
    assert said in refusal()
    assert len(hub.asked) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        (2**63).to_bytes(8, "little") + bytes(64),
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (8).to_bytes(8, "little") + b'{"w": 4}',
        (9).to_bytes(8, "little") + b'{"w": []}',
        (9).to_bytes(8, "little") + b'{"w": {}}',
        (10**5).to_bytes(8, "little") + b"[" * 10**5,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_weights_that_are_damaged_on_the_hub_are_a_sentence(hub, content):
    (hub.folder / SINGLE).write_bytes(content)
    said = refusal()
    assert said == f"The weights of {MODEL} on the Hub are damaged. Choose another."


@pytest.mark.parametrize(
    "body",
    [b"<html>Sign in to the hotel's network</html>", b"[]", b"{}", b'{"id": 1, "siblings": [2]}'],
)
def test_whoever_answers_instead_of_the_hub_is_a_sentence(hub, body):
    hub.faults = {"/api/": Fault(200, body=body)}
    said = refusal()
    assert f"{MODEL} cannot be looked up on the Hub: its answer cannot be read" in said


def test_a_card_that_would_break_the_client_is_a_sentence(hub):
    hub.page = {"cardData": {"ignore_metadata_errors": False}}
    assert "its answer cannot be read (TypeError)" in refusal()


SILENT = {
    "hangs": (Fault(hangs=True), "the Hub cannot be reached (ReadTimeout). Connect to the"),
    "breaks off": (Fault(breaks_off=True), "the Hub cannot be reached (RemoteProtocolError)."),
    "is broken": (Fault(502), "the Hub is out of order (502). Try again later"),
    "slows down": (Fault(429), "the Hub asks to slow down (429). Try again in a few minutes"),
}


@pytest.mark.parametrize(("fault", "said"), SILENT.values(), ids=SILENT.keys())
@pytest.mark.parametrize("part", ["/api/", "config.json", ".safetensors"])
def test_a_hub_that_does_not_answer_is_not_waited_for(hub, monkeypatch, part, fault, said):
    monkeypatch.setattr(hub_lookup, "TIMEOUT", PATIENCE)
    hub.faults = {part: fault}
    start = time.monotonic()
    problem = refusal()
    assert time.monotonic() - start < PATIENCE + 5
    assert problem.startswith(f"{MODEL} is not on this machine, and {said}")
    assert problem.endswith("or choose starter or a local folder.")


@pytest.mark.parametrize("fault", [fault for fault, _ in SILENT.values()], ids=SILENT.keys())
@pytest.mark.parametrize("part", ["/api/", "config.json", ".safetensors"])
def test_a_hub_that_does_not_answer_leaves_what_was_downloaded_before(
    hub, llama, monkeypatch, part, fault
):
    folder = download(hub)
    monkeypatch.setattr(hub_lookup, "TIMEOUT", PATIENCE)
    hub.faults = {part: fault}
    base = find_base_model(MODEL)
    assert (base.name, base.folder, base.revision) == (MODEL, folder, COMMIT)
    assert base.parameters == find_base_model(str(llama)).parameters


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_without_a_connection_the_copy_on_this_machine_is_used(hub, revision):
    folder = download(hub, revision)
    hub.close()
    for wanted in (None, revision, COMMIT):
        base = find_base_model(MODEL, wanted)
        assert (base.folder, base.revision) == (folder, COMMIT)


def test_without_a_connection_or_a_copy_the_sentence_says_what_to_do(hub):
    hub.close()
    assert refusal() == (
        f"{MODEL} is not on this machine, and the Hub cannot be reached (ConnectError). "
        "Connect to the internet, or choose starter or a local folder."
    )


def test_a_copy_of_another_revision_is_never_used_instead(hub):
    download(hub)
    hub.close()
    for revision in (OTHER_COMMIT, "v2"):
        assert refusal(revision=revision).startswith(f"{MODEL} at revision {revision} is not on")


def test_of_several_copies_main_is_used_or_else_the_last_downloaded(hub):
    first = download(hub)
    second = Path(shutil.copytree(first, first.with_name(OTHER_COMMIT), symlinks=True))
    os.utime(first, (0, 0))
    hub.close()
    assert find_base_model(MODEL).revision == OTHER_COMMIT
    refs = second.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    assert find_base_model(MODEL).revision == COMMIT


def test_a_copy_without_weights_is_no_model(hub):
    hf_hub_download(MODEL, "config.json")
    hub.close()
    assert f"{MODEL} is not on this machine" in refusal()


def test_a_copy_whose_weights_were_lost_is_a_sentence(hub):
    folder = download(hub)
    (folder / SINGLE).resolve().unlink()
    hub.close()
    assert f"{SINGLE} of {MODEL} is missing. Download the model again." in refusal()


def test_offline_nobody_is_asked(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert refusal() == (
        f"{MODEL} is not on this machine, and the Hub is not asked, as HF_HUB_OFFLINE is set. "
        "Unset it, or choose starter or a local folder."
    )
    assert hub.asked == []


def test_offline_the_copy_on_this_machine_is_used(hub, monkeypatch):
    folder = download(hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_base_model(MODEL).folder == folder
    assert hub.asked == []
