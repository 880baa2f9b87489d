"""Will it fit: beside figures that others published, beside runs on this machine, and decisions."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.tiny_models import tiny_model
from tuner.base_models.architecture import LLAMA_7B
from tuner.base_models.lookup import BaseModel, find_base_model
from tuner.device import Device
from tuner.errors import RecipeError
from tuner.levers import LEVERS
from tuner.memory.estimate import Estimate, estimate
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.store import RunStore

GB = 10**9
A100 = Device("cuda", "NVIDIA A100-SXM4-80GB", 80 * GB, 80 * GB, True, 8, 1)
CPU = Device("cpu", "a processor", 24 * GB, 20 * GB, True, 2, 1)
# Hidden size, feed-forward size, blocks and heads of LLaMA (arXiv 2302.13971, table 2).
LLAMA = {
    "7B": (4096, 11008, 32, 32),
    "13B": (5120, 13824, 40, 40),
    "33B": (6656, 17920, 60, 52),
    "65B": (8192, 22016, 80, 64),
}


def llama(size: str = "7B") -> BaseModel:
    hidden, intermediate, blocks, heads = LLAMA[size]
    config = LLAMA_7B | {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
    }
    from tuner.base_models.architecture import read_architecture

    parameters = read_architecture(config).parameters
    return BaseModel(
        name=f"llama-{size}",
        revision=None,
        folder=None,
        config=config,
        parameters=parameters,
        weight_bytes=2 * parameters,
        license=None,
        license_link=None,
        gated=False,
        context_length=2048,
        has_chat_template=False,
    )


def estimated(base: BaseModel, device: Device = A100, **settings: Any) -> Estimate:
    known = {name: settings.pop(name) for name in ("rows", "mean_tokens") if name in settings}
    return estimate(make_recipe({"max_length": 512} | settings), base, device, **known)


@pytest.mark.parametrize(("size", "gigabytes"), [("7B", 5), ("13B", 10), ("33B", 21), ("65B", 41)])
def test_a_4_bit_model_with_its_adapter_has_the_footprint_of_the_qlora_article(size, gigabytes):
    # arXiv 2305.14314, table 6; rounded up there, and with r 64 on every linear layer.
    parts = estimated(llama(size), quantization="nf4", lora={"r": 64}).breakdown

    footprint = parts["weights"] + parts["adapter"]

    assert 0.8 * gigabytes < footprint / GB < gigabytes


@pytest.mark.parametrize(
    ("method", "gigabytes"),
    [
        ({"adapter": "none", "optim": "adamw_torch"}, 120),
        ({}, 16),
        ({"quantization": "int8"}, 10),
        ({"quantization": "nf4"}, 6),
    ],
    ids=["full", "lora", "int8", "nf4"],
)
def test_7b_takes_about_what_llama_factory_says_it_takes(method, gigabytes):
    # "Hardware requirement" in LLaMA-Factory's README.
    settings = {"micro_batch_size": 1, "gradient_checkpointing": True, **method}

    needed = estimated(llama(), **settings).estimated_memory_bytes

    assert needed / GB == pytest.approx(gigabytes, rel=0.2)


def test_33b_fits_one_24_gb_card_with_qlora_and_not_without():
    card = replace(A100, memory_bytes=24 * GB, available_bytes=24 * GB)

    assert estimated(llama("33B"), card, quantization="nf4").fits
    assert not estimated(llama("33B"), card).fits


def test_a_smaller_micro_batch_is_chosen_before_checkpointing():
    room = [replace(A100, available_bytes=gigabytes * GB) for gigabytes in (80, 24, 18)]

    chosen = [estimated(llama(), device) for device in room]

    assert chosen[0].micro_batch_size > chosen[1].micro_batch_size
    assert [found.gradient_checkpointing for found in chosen] == [False, False, True]


def test_what_the_recipe_says_is_not_decided_again():
    settings = {"micro_batch_size": 2, "gradient_checkpointing": True}

    found = estimated(llama(), **settings)

    assert (found.micro_batch_size, found.gradient_checkpointing) == (2, True)


@pytest.mark.parametrize(
    ("mean_tokens", "settings", "size"),
    [
        (50, {}, 16),  # the whole batch at once
        (190, {}, 16),
        (200, {}, 8),
        (1000, {}, 2),
        (5000, {}, 1),
        (50, {"batch_size": 12}, 4),
        (50, {"batch_size": 64}, 32),
        (1000, {"micro_batch_size": 8}, 8),
        (1000, {"packing": True, "max_length": 2048}, 1),
        # With padding, as long rows make short ones longer.
        (50, {"levers": "none"}, 8),
        (1000, {"levers": "none"}, 8),
        (50, {"lora": {"lora_dropout": 0.1}}, 8),
        (50, {"objective": "dpo"}, 8),
    ],
)
def test_rows_without_padding_go_through_a_cpu_by_their_tokens(mean_tokens, settings, size):
    practice = find_base_model("starter")
    found = estimated(practice, CPU, mean_tokens=mean_tokens, **{"max_length": 2048} | settings)
    assert found.micro_batch_size == size


def test_on_a_gpu_a_micro_batch_is_what_fits():
    found = [estimated(llama(), mean_tokens=mean).micro_batch_size for mean in (10, 500)]
    assert found == [16, 16]


def test_a_micro_batch_divides_the_batch():
    for batch_size in (1, 6, 12, 20):
        assert batch_size % estimated(llama(), batch_size=batch_size).micro_batch_size == 0


def test_the_verdict_says_how_close_it_is():
    settings = {"micro_batch_size": 1, "gradient_checkpointing": True}
    needed = estimated(llama(), **settings).estimated_memory_bytes

    def verdict(share: float) -> str:
        device = replace(A100, available_bytes=round(needed * share))
        return estimated(llama(), device, **settings).verdict

    assert [verdict(share) for share in (2, 1.05, 0.95)] == ["fits", "tight", "will not fit"]


@pytest.mark.parametrize(
    "more",
    [
        {"max_length": 1024},
        {"micro_batch_size": 4},
        {"lora": {"r": 64}},
        {"adapter": "dora"},
        {"adapter": "none"},
        {"dtype": "float32"},
        {"objective": "dpo"},
    ],
    ids=str,
)
def test_what_asks_for_more_memory_is_estimated_to_take_more(more):
    least = {"max_length": 512, "micro_batch_size": 2, "gradient_checkpointing": False}
    more = {**least, **more}

    assert (
        estimated(llama(), **more).estimated_memory_bytes
        > estimated(llama(), **least).estimated_memory_bytes
    )


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_while_a_base_is_quantized_its_file_is_in_memory_beside_it(quantization):
    least = {"max_length": 64, "micro_batch_size": 1, "gradient_checkpointing": True}
    base = llama()

    found = estimated(base, CPU, quantization=quantization, dtype="bfloat16", **least)

    assert found.estimated_memory_bytes > base.weight_bytes + found.breakdown["weights"]


@pytest.mark.parametrize("lever", ["trained_loss", "lora_linear", "gated_mlp", "rms_norm"])
def test_without_one_of_its_levers_a_run_is_estimated_to_take_more(lever):
    fixed = {"micro_batch_size": 2, "gradient_checkpointing": False, "dtype": "bfloat16"}
    others = [name for name in LEVERS if name != lever]

    assert (
        estimated(llama(), CPU, levers=others, **fixed).estimated_memory_bytes
        > estimated(llama(), CPU, **fixed).estimated_memory_bytes
    )


def test_layers_that_the_model_does_not_have_are_named_with_those_it_has():
    with pytest.raises(RecipeError, match=r"query_key_value.*q_proj, k_proj"):
        estimated(llama(), lora={"target_modules": ["query_key_value"]})


def test_time_grows_with_the_rows_and_is_not_guessed_without_them():
    few, many = (estimated(llama(), rows=rows).estimated_seconds for rows in (100, 10_000))

    assert few and many and many > 50 * (few - 60)
    assert estimated(llama()).estimated_seconds is None
    assert estimated(llama(), max_steps=10).estimated_seconds


def test_time_grows_with_what_is_computed():
    def seconds(**settings: Any) -> float:
        fixed = {"micro_batch_size": 4, "gradient_checkpointing": False}
        return estimated(llama(), rows=5000, **{**fixed, **settings}).estimated_seconds or 0.0

    assert seconds(gradient_checkpointing=True) > seconds()
    assert seconds(adapter="none") > seconds()
    assert seconds(num_train_epochs=6) > 1.8 * seconds()
    assert seconds(mean_tokens=400) > seconds(mean_tokens=100)


# Wide enough for its tensors to outweigh what a process takes anyway.
SMALL = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
}
# Three of the runs of bench/estimate.py, which has 26.
RUNS: dict[str, dict[str, Any]] = {
    "lora in 16 bit": {"dtype": "bfloat16", "micro_batch_size": 4},
    "checkpointing": {"dtype": "float32", "micro_batch_size": 4, "gradient_checkpointing": True},
    "nf4": {"quantization": "nf4", "dtype": "bfloat16"},
}


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("small"), context=2048, **SMALL))


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS.keys())
def test_a_run_takes_the_memory_that_was_estimated(settings, small_model, tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{n}", "completion": f"{n} is a number. " * 200} for n in range(24)]
    data.write_text("\n".join(map(json.dumps, rows)))
    recipe = make_recipe(
        {
            "base_model": small_model,
            "dataset": {"source": str(data)},
            "max_length": 256,
            "batch_size": 4,
            "micro_batch_size": 2,
            "gradient_checkpointing": False,
            "max_steps": 2,
            **settings,
        }
    )
    run = RunStore(tmp_path / "runs").create(recipe)
    launch.start(run)
    assert launch.wait(run)["state"] == "completed", run.log_path.read_text()[-2000:]
    result = run.result() or {}

    assert result["estimated_memory_bytes"] == pytest.approx(result["peak_memory_bytes"], rel=0.15)


def test_the_practice_model_is_estimated_without_being_loaded():
    found = estimate(make_recipe({}), find_base_model("starter"), CPU, rows=200)

    assert found.fits and found.verdict == "fits"
    assert sum(found.breakdown.values()) == found.estimated_memory_bytes


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({"micro_batch_size": 1}, (130 + 32 * 9 - 24)),  # two doublings of lengths, no more
        ({"micro_batch_size": 16}, (130 + 18 * 9 - 24)),
        ({"dtype": "float32"}, 0),
    ],
)
def test_in_16_bits_rows_of_many_lengths_take_programs_for_each_length(settings, more):
    practice = find_base_model("starter")
    recipe = make_recipe({"micro_batch_size": 1, "gradient_checkpointing": False} | settings)
    alike, unlike = (
        estimate(recipe, practice, CPU, longest=512, mean_tokens=mean).breakdown["overhead"]
        for mean in (512, 205)
    )
    assert unlike - alike == more * 10**6
