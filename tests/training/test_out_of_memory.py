"""A batch that really does not fit: the process may take only a little more than it has."""

import json

from tests.tiny_models import tiny_model
from tests.training.forked_runs import python
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore

ROOM = 200_000_000  # bytes beyond the loaded model; 64 rows of 500 tokens take several times that
TRY = """
import re, resource, sys
from pathlib import Path
from tuner.runs.events import EventWriter
from tuner.runs.store import Run
from tuner.training.callbacks import StopRequest
from tuner.training.prepare import prepare
from tuner.training.run import Session

run = Run(Path(sys.argv[1]))
events = EventWriter(run.events_path)
prepared = prepare(run, events, StopRequest(), run.data_dir / "tokens")
session = Session(run, events, StopRequest(), prepared)
model, _ = session._load_model()
used = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
trainer = session._fit(model)
print(trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps)
"""


def test_the_micro_batch_is_halved_until_it_fits_and_the_batch_stays(tmp_path):
    data = tmp_path / "long.jsonl"
    rows = [{"question": f"{n} " * 120, "answer": f"{n} " * 100} for n in range(100, 180)]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    recipe = make_recipe(
        {
            "base_model": str(tiny_model(tmp_path)),
            "dataset": {"source": str(data)},
            "dtype": "float32",
            "max_length": 500,
            "batch_size": 64,
            "micro_batch_size": 64,
            "gradient_checkpointing": False,
            "max_steps": 1,
        }
    )
    run = RunStore(tmp_path / "runs").create(recipe)

    done = python(TRY, str(run.dir), str(ROOM))

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "64"  # the effective batch
    assert run.recipe().micro_batch_size < 64
    warnings = [e["message"] for e in run.events()[0] if e["kind"] == "warning"]
    assert any("did not fit in memory" in message for message in warnings)
