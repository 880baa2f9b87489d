"""What others may reach of the Hub through a machine that has a login of its own."""

import pytest

from tests.hub.conftest import TOKEN
from tuner.hub.public_repos import PublicRepos


@pytest.fixture
def repos():
    return PublicRepos(has_login=lambda: True)


def test_a_public_repo_may_be_used_and_a_private_one_is_like_none(hub, repos, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # which may read both
    hub.add_repo("anna/open", private=False)
    hub.add_repo("anna/hidden", private=True)
    assert repos.problem("anna/open", "model") is None
    hidden, none = repos.problem("anna/hidden", "model"), repos.problem("anna/nothing", "model")
    assert hidden and hidden.replace("hidden", "nothing") == none


def test_the_hub_is_asked_once_in_a_while(hub, repos):
    hub.add_repo("anna/open", private=False)
    for _ in range(3):
        repos.problem("anna/open", "model")
    assert len(hub.asked("GET", "/api/models/anna/open")) == 1


def test_what_is_not_known_is_not_used(hub, repos):
    hub.fail("GET", "/api/models", status=500)
    assert repos.problem("anna/open", "model")
    assert repos.problem("../../etc", "model")


def test_without_a_login_the_hub_says_no_by_itself(hub):
    assert PublicRepos(has_login=lambda: False).problem("anna/hidden", "model") is None
    assert hub.requests == []
