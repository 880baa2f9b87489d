"""What is imported, and what is left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.recipe import make_recipe
from tuner.training.libraries import needs_bitsandbytes

REPOSITORY = Path(__file__).parents[2]
IMPORTS = """
import gc, json, sys
from tuner.recipe import make_recipe
from tuner.training.libraries import import_for
import_for(make_recipe(json.loads(sys.argv[1])))
heavy = [name for name in ("tuner.training.run", "bitsandbytes", "torch._inductor.compile_fx")
         if sys.modules.get(name)]
from peft.import_utils import is_bnb_available
print(json.dumps([heavy, is_bnb_available(), gc.isenabled()]))
"""


def imported(**settings):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, json.dumps(settings)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TUNER_DEVICE": "cpu"},
    )
    return json.loads(done.stdout)


def test_a_run_without_quantization_leaves_bitsandbytes_and_the_compiler_out():
    assert imported() == [["tuner.training.run"], False, True]


def test_a_quantized_run_has_bitsandbytes():
    heavy, is_available, is_collecting = imported(quantization="nf4")
    assert {"tuner.training.run", "bitsandbytes"} <= set(heavy)
    assert is_available and is_collecting


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, False),
        ({"optim": "adamw_torch_fused"}, False),
        ({"optim": "paged_adamw_8bit"}, True),
        ({"quantization": "int8"}, True),
        ({"base_model": "somebody/model-bnb-4bit"}, True),
    ],
    ids=str,
)
def test_bitsandbytes_is_needed_for_packed_weights_and_8_bit_optimizers(
    settings, needed, monkeypatch
):
    monkeypatch.setenv("TUNER_DEVICE", "cpu")
    assert needs_bitsandbytes(make_recipe(settings)) is needed
