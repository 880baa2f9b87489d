"""Model folders, whole and broken, read without loading them; counted as transformers counts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.tiny_models import FAMILIES, tiny_config
from tuner.base_models import families
from tuner.base_models.checkpoint import (
    INDEX,
    SINGLE,
    card_of,
    context_length,
    count_parameters,
    has_chat_template,
    parse_config,
    read_tensors,
    require_causal_lm,
    weight_files,
)
from tuner.errors import ModelError

DEEP = "[" * 100_000  # more than a JSON reader can go into
ONE = {"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
SHARD_1, SHARD_2 = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))


def saved(folder: Path, family: str, tied: bool | None = None, shard: str = "1GB") -> Any:
    """A tiny model in `folder`; `tied` None leaves it to the family."""
    config = tiny_config(family)
    if tied is not None:
        config.tie_word_embeddings = tied
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def counted(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    return count_parameters(read_tensors(folder, "it"), config)


def in_model(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def loaded(folder: Path) -> int:
    return in_model(AutoModelForCausalLM.from_pretrained(folder))


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("shard", ["1GB", "80KB"], ids=["one file", "shards"])
@pytest.mark.parametrize("tied", [True, False, None], ids=["tied", "untied", "as the family"])
@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_parameters_are_counted_as_transformers_has(tmp_path, family, tied, shard):
    model = saved(tmp_path, family, tied, shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "80KB")
    assert counted(tmp_path) == in_model(model)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_tied_head_that_was_stored_too_is_counted_once(tmp_path, family):
    saved(tmp_path, family, tied=True)
    tensors = load_file(tmp_path / SINGLE)
    head = "lm_head.weight" if family == "llama" else "embed_out.weight"
    [embeddings] = [tensor for name, tensor in tensors.items() if "embed" in name]
    save_file(tensors | {head: embeddings.clone()}, tmp_path / SINGLE, {"format": "pt"})
    assert counted(tmp_path) == loaded(tmp_path)


def test_a_tied_head_that_was_stored_without_its_embeddings_is_counted(tmp_path):
    saved(tmp_path, "llama", tied=True)
    tensors = load_file(tmp_path / SINGLE)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / SINGLE, {"format": "pt"})
    assert counted(tmp_path) == loaded(tmp_path)


def test_masks_and_frequencies_that_older_models_stored_are_no_parameters(tmp_path):
    saved(tmp_path, "gpt_neox")
    tensors = load_file(tmp_path / SINGLE)
    mask = torch.ones(1, 1, 512, 512, dtype=torch.uint8)
    block = "gpt_neox.layers.0.attention"
    stored = {f"{block}.bias": mask, f"{block}.masked_bias": torch.ones(1)}
    stored |= {f"{block}.rotary_emb.inv_freq": torch.ones(4)}
    save_file(tensors | stored, tmp_path / SINGLE, {"format": "pt"})
    assert counted(tmp_path) == loaded(tmp_path)
    assert f"{block}.bias" in read_tensors(tmp_path, "it")  # downloaded all the same


def test_bytes_are_those_of_every_type_that_can_be_stored(tmp_path):
    kinds = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 complex64 bool"
    kinds += " int64 int32 int16 int8 uint64 uint32 uint16 uint8"
    tensors = {name: torch.zeros(3, 5, dtype=getattr(torch, name)) for name in kinds.split()}
    save_file(tensors, tmp_path / SINGLE)
    read = read_tensors(tmp_path, "it")
    assert {name: tensor.bytes for name, tensor in read.items()} == {
        name: tensor.nbytes for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(("dtype", "bits"), [("F4", 4), ("F6_E2M3", 6), ("F8_E8M0", 8)])
def test_types_that_torch_cannot_write_yet_have_their_bits(tmp_path, dtype, bits):
    header = {"weight": {"dtype": dtype, "shape": [8], "data_offsets": [0, bits]}}
    (tmp_path / SINGLE).write_bytes(safetensors(header, bytes(bits)))
    assert read_tensors(tmp_path, "it")["weight"].bytes == bits


DAMAGED = {
    "empty": (b"", "longer than the file"),
    "a pickle": (b"\x80\x02}q\x00.", "longer than the file"),
    "zeros": (bytes(64), "longer than the file"),
    "endless": ((2**63).to_bytes(8, "little") + bytes(64), "longer than the file"),
    "no JSON": (safetensors(b"not JSON"), "Expecting value"),
    "no UTF-8": (safetensors(b'{"\xff": 1}'), "decode"),
    "too deep": (safetensors(DEEP.encode()), "recursion"),
    "a list": (safetensors([ONE]), "no attribute"),
    "a number for a tensor": (safetensors({"weight": 4}), "not subscriptable"),
    "no type": (safetensors({"weight": {"shape": [1]}}), "dtype"),
    "a list for a type": (safetensors({"weight": {"dtype": ["F32"], "shape": [1]}}), "attribute"),
    "text for a shape": (safetensors({"weight": {"dtype": "F32", "shape": "1"}}), "shape 1"),
    "less than nothing": (safetensors({"w": {"dtype": "F32", "shape": [-1]}}), "shape [-1]"),
    "infinite": (safetensors(b'{"w": {"dtype": "F32", "shape": [Infinity]}}'), "shape [inf]"),
    "no tensor": (safetensors({}), "holds no weights"),
    "no tensor but a note": (safetensors({"__metadata__": {}}), "holds no weights"),
    "one byte short": (safetensors(ONE, b"123"), "77 of 78 bytes are there"),
}


@pytest.mark.parametrize(("content", "said"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_weights_are_refused_with_the_file_named(tmp_path, content, said):
    (tmp_path / SINGLE).write_bytes(content)
    with pytest.raises(ModelError) as error:
        read_tensors(tmp_path, "shop/model")
    assert str(error.value).startswith(f"{SINGLE} of shop/model is damaged (")
    assert said in str(error.value)
    assert str(error.value).endswith("Download the model again.")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_weights_that_were_cut_off_are_refused(tmp_path, kept):
    saved(tmp_path, "llama")
    whole = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(whole[:kept])
    with pytest.raises(ModelError, match="is damaged"):
        read_tensors(tmp_path, "it")


def test_a_shard_that_is_missing_or_cut_off_is_named(tmp_path):
    saved(tmp_path, "llama", shard="80KB")
    last = max(tmp_path.glob("model-*"))
    whole = last.read_bytes()
    last.write_bytes(whole[:-4])
    with pytest.raises(ModelError, match=f"{last.name} of it is damaged"):
        read_tensors(tmp_path, "it")
    last.unlink()
    with pytest.raises(ModelError, match=f"{last.name} of it is missing"):
        read_tensors(tmp_path, "it")


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{",
        pytest.param(DEEP, id="too deep"),
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"weight": 1}}',
        '{"weight_map": {"weight": ["a"]}}',
        '{"weight_map": {"a": 1, "b": "c"}}',
    ],
)
def test_a_damaged_index_is_refused(tmp_path, index):
    (tmp_path / SHARD_1).write_bytes(safetensors(ONE, bytes(4)))
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(ModelError, match=f"{INDEX} of it is damaged. Download the model again"):
        read_tensors(tmp_path, "it")


def test_an_index_that_is_no_file_is_refused(tmp_path):
    (tmp_path / INDEX).mkdir()
    with pytest.raises(ModelError, match=f"{INDEX} of it is damaged"):
        read_tensors(tmp_path, "it")


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "..", "a\0b", ""])
def test_an_index_never_leads_out_of_its_folder(tmp_path, file):
    (tmp_path / "secret.safetensors").write_bytes(safetensors(ONE, bytes(4)))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"weight": file}}))
    with pytest.raises(ModelError, match="Download the model again"):
        read_tensors(folder, "it")


def test_shards_without_an_index_are_refused_as_transformers_would_refuse_them(tmp_path):
    saved(tmp_path, "llama", shard="80KB")
    (tmp_path / INDEX).unlink()
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"no {INDEX} that lists them"):
        read_tensors(tmp_path, "it")


def test_of_all_files_those_are_chosen_that_transformers_reads():
    shards = [SHARD_1, SHARD_2]
    beside = ["config.json", "pytorch_model.bin", "adapter_config.json"]
    assert weight_files([*beside, *shards, INDEX], "it") == shards
    assert weight_files([*beside, *shards, INDEX, SINGLE], "it") == [SINGLE]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["pytorch_model.bin"], "pickled weights only"),
        (["original/consolidated.00.pth"], "pickled weights only"),
        (["model.ckpt"], "pickled weights only"),
        (["adapter_config.json", "adapter_model.safetensors"], "is an adapter, not a base model"),
        (["model.gguf"], f"has no safetensors weights ({SINGLE})"),
        (["training.safetensors"], "has no safetensors weights"),
        ([], "has no safetensors weights"),
    ],
)
def test_weights_that_cannot_be_used_are_told_apart(names, said):
    with pytest.raises(ModelError) as error:
        weight_files(["README.md", *names], "shop/model")
    assert str(error.value).startswith("shop/model ") and said in str(error.value)


def test_pickled_weights_are_never_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    (tmp_path / "pytorch_model.bin").chmod(0)
    with pytest.raises(ModelError, match="opening a pickle can run harmful code"):
        read_tensors(tmp_path, "it")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is damaged: Expecting value"),
        ('{"model_type": "llama"', "is damaged"),
        ("\ufffd\ufffd", "is damaged"),
        pytest.param(DEEP, "is damaged", id="too deep"),
        ("[]", "holds no settings"),
        ("null", "holds no settings"),
        ('{"model_type": ["llama"]}', "its model_type cannot be read"),
        ('{"architectures": "LlamaForCausalLM"}', "its architectures cannot be read"),
        ('{"architectures": 5}', "its architectures cannot be read"),
        ('{"text_config": "llama"}', "its text_config cannot be read"),
    ],
)
def test_a_damaged_config_is_refused(text, said):
    with pytest.raises(ModelError, match=r"config\.json of shop/model") as error:
        parse_config(text, "shop/model")
    assert said in str(error.value)
    assert str(error.value).endswith("Download the model again.")


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
def test_every_family_of_ours_is_one_that_transformers_knows(family):
    require_causal_lm({"model_type": family}, "it")


def test_whatever_transformers_can_continue_text_with_is_accepted():
    for kind, architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        names = [architecture] if isinstance(architecture, str) else list(architecture)
        if names[0].endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
            require_causal_lm({"model_type": kind, "architectures": names}, "it")


def test_the_config_that_transformers_writes_is_accepted(tmp_path):
    AutoConfig.for_model("qwen2").save_pretrained(tmp_path)
    config = parse_config((tmp_path / "config.json").read_text(), "it")
    require_causal_lm(config, "it")
    assert context_length(config) == AutoConfig.for_model("qwen2").max_position_embeddings


CODE = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
UNFIT = {
    "code of its own": ({"model_type": "shop-1"} | CODE, "needs program code from its own"),
    "code of its own, without a type": (CODE, "needs program code from its own"),
    "code of its own, for a known type": ({"model_type": "vit"} | CODE, "needs program code"),
    "a type that nobody knows": ({"model_type": "llama99"}, "is a 'llama99' model, which the"),
    "no type": ({"hidden_size": 64}, "names no model_type"),
    "encoder and decoder": (
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
        "its config.json says T5ForConditionalGeneration",
    ),
    "encoder and decoder of a causal type": (
        {"model_type": "bart", "architectures": ["BartForCausalLM"], "is_encoder_decoder": True},
        "its config.json says BartForCausalLM",
    ),
    "masks": (
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        "its config.json says BertForMaskedLM",
    ),
    "scores": (
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
        "its config.json says LlamaForSequenceClassification",
    ),
    "pictures, without architectures": ({"model_type": "vit"}, "its config.json says vit"),
    "architectures that are numbers": (
        {"model_type": "llama", "architectures": [5]},
        "its config.json says 5",
    ),
}


@pytest.mark.parametrize(("config", "said"), UNFIT.values(), ids=UNFIT.keys())
def test_a_model_that_cannot_continue_text_here_is_refused(config, said):
    with pytest.raises(ModelError) as error:
        require_causal_lm(config, "shop/model")
    assert "shop/model" in str(error.value) and said in str(error.value)


def test_code_that_transformers_has_itself_is_no_reason_to_refuse():
    code = {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    architectures = ["Phi3ForCausalLM"]
    config = {"model_type": "phi3", "auto_map": code, "architectures": architectures}
    require_causal_lm(config, "microsoft/Phi-3-mini-4k-instruct")


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"seq_length": 2048}, 2048),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        ({"max_position_embeddings": 4096, "text_config": {"n_positions": 7}}, 4096),
        ({"max_position_embeddings": None}, 0),
        ({"max_position_embeddings": -1, "text_config": None}, 0),
        ({"max_position_embeddings": "many"}, 0),
        ({}, 0),
    ],
)
def test_the_context_is_the_first_limit_that_a_config_sets(config, tokens):
    assert context_length(config) == tokens


@pytest.mark.parametrize(
    ("readme", "card"),
    [
        ("---\nlicense: mit\n---\n# A model\n", {"license": "mit"}),
        ("---\nlicense: mit\n---", {"license": "mit"}),
        ("---\r\nlicense: mit\r\n---\r\nText", {"license": "mit"}),
        ("\ufeff---\nlicense: mit\n---\n", {"license": "mit"}),
        ("---\ntitle: mine ---\nlicense: mit\n---\n", {"title": "mine ---", "license": "mit"}),
        ("# A model\n---\nlicense: mit\n---\n", {}),
        ("---\nlicense: mit\n", {}),
        ("---\n[unclosed\n---\n", {}),
        ("---\njust a sentence\n---\n", {}),
        ("---\ndate: 2024-99-99\n---\n", {}),
        ("---\n!!python/object/apply:os.system [exit]\n---\n", {}),
        pytest.param(f"---\n{DEEP[:2000]}\n---\n", {}, id="too deep"),
        ("", {}),
    ],
)
def test_the_card_is_the_yaml_at_the_top_of_the_readme(tmp_path, readme, card):
    (tmp_path / "README.md").write_bytes(readme.encode())
    assert card_of(tmp_path) == card


def test_a_folder_without_a_readme_has_an_empty_card(tmp_path):
    assert card_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "text", "known"),
    [
        ("chat_template.jinja", "{{ messages }}", True),
        ("tokenizer_config.json", '{"chat_template": "{{ messages }}"}', True),
        ("tokenizer_config.json", '{"chat_template": null}', False),
        ("tokenizer_config.json", "{}", False),
        ("tokenizer_config.json", "[]", False),
        ("tokenizer_config.json", "{", False),
        pytest.param("tokenizer_config.json", DEEP, False, id="too deep"),
        ("tokenizer.json", "{}", False),
    ],
)
def test_a_chat_template_is_found_where_tokenizers_keep_it(tmp_path, name, text, known):
    (tmp_path / name).write_text(text)
    assert has_chat_template(tmp_path) is known
