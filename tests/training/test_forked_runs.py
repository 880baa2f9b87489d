"""A forked process does what a fresh one does, whatever environment the first test had."""

import pytest

from tests.training import forked_runs
from tests.training.forked_runs import Forks, python

TELLS = "import os, sys; print(os.environ.get('TUNER_PROBE'), *sys.argv[1:]); sys.exit(3)"


def test_programs_see_the_environment_of_their_test_in_whatever_order(monkeypatch):
    monkeypatch.setattr(forked_runs, "_forks", Forks())
    told = []
    for probe in ("one", None, "two", None):
        with pytest.MonkeyPatch.context() as patch:
            if probe:
                patch.setenv("TUNER_PROBE", probe)
            done = python(TELLS, "a", "b c")
        told.append((done.returncode, done.stdout.strip()))
    assert told == [(3, "one a b c"), (3, "None a b c"), (3, "two a b c"), (3, "None a b c")]
