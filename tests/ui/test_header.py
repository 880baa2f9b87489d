"""What the header offers on a Space, and only there."""

import pytest

from tuner.hub.identity import Role
from tuner.hub.space import disk_is_temporary
from tuner.ui.header import SIGN_IN_VARIABLES, offers_sign_in, space_notice


@pytest.fixture
def space(monkeypatch):
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("SPACE_ID", "ann/tuner")
    for name in SIGN_IN_VARIABLES:
        monkeypatch.setenv(name, "x")


@pytest.mark.parametrize("name", ["SPACE_ID", "SYSTEM"])
def test_a_sign_in_is_offered_on_a_space_alone(space, monkeypatch, name):
    assert offers_sign_in()
    monkeypatch.delenv(name)
    assert not offers_sign_in()  # there Gradio would hand out a made-up token


@pytest.mark.parametrize("name", SIGN_IN_VARIABLES)
def test_a_space_without_sign_in_is_served_without_its_button(space, monkeypatch, name):
    monkeypatch.delenv(name)
    assert not offers_sign_in()


def test_a_visitor_is_shown_the_way_to_a_space_of_their_own(space):
    shown = space_notice(Role.VISITOR)
    assert 'href="https://huggingface.co/spaces/ann/tuner?duplicate=true"' in shown
    assert "Duplicate" not in space_notice(Role.OWNER)


@pytest.mark.parametrize("role", Role)
def test_everybody_is_told_of_a_disk_that_does_not_last(space, monkeypatch, tmp_path, role):
    monkeypatch.setenv("TUNER_DATA_DIR", str(tmp_path / "data"))
    assert "temporary" in space_notice(role)
    (tmp_path / "data").mkdir()
    assert "temporary" not in space_notice(role)


def test_off_a_space_no_disk_is_called_temporary(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNER_DATA_DIR", str(tmp_path / "data"))
    assert not disk_is_temporary()
