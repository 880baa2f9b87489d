"""Whose a run is and who may look at it, as asked at every poll."""

import os

import pytest

from tests.ui.asking import http, session_of
from tuner.ui.access import ByRole

OLD = 1_000_000_000
SPACE = {"SYSTEM": "spaces", "SPACE_ID": "ann/tuner", "OAUTH_CLIENT_SECRET": "x"}


@pytest.fixture
def carl(monkeypatch):
    for name, value in SPACE.items():
        monkeypatch.setenv(name, value)
    return http("192.0.2.7", "ann-tuner.hf.space", session_of("carl"))


def of(run, seconds, **changes):
    """Change the run's status, so long ago."""
    run.update_status(**changes)
    os.utime(run.status_path, (OLD + seconds, OLD + seconds))


def test_what_was_read_of_a_run_holds_until_it_changes(carl, run):
    access = ByRole()
    of(run, 0, owner="bob")
    assert not access.may_see(carl, run)
    of(run, 1, public=True)
    assert access.may_see(carl, run) and not access.may_change(carl, run)
    of(run, 2, public=False)
    assert not access.may_see(carl, run)
    of(run, 3, owner="carl")
    assert access.may_see(carl, run) and access.may_change(carl, run)


def test_a_run_that_is_gone_or_broken_is_nobodys(carl, run):
    of(run, 0, owner="carl", public=True)
    access = ByRole()
    run.status_path.write_text("{")
    assert not access.may_see(carl, run)
    run.status_path.unlink()
    assert not access.may_see(carl, run) and not access.may_change(carl, run)


@pytest.mark.parametrize("public", ["yes", 1, None, "false"])
def test_only_true_makes_a_run_public(carl, run, public):
    of(run, 0, owner="bob", public=public)
    assert not ByRole().may_see(carl, run)


def test_a_run_without_an_owner_is_nobodys_but_the_pages(carl, run):
    of(run, 0, owner=None)
    assert not ByRole().may_see(carl, run)
