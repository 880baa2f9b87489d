"""What is refused before a push begins, and what is found out about the repo it goes to."""

import pytest
from huggingface_hub.utils import validate_repo_id

from tests.hub.conftest import TOKEN
from tuner.errors import HubError
from tuner.hub.target import Target, check_target, name_problems, require_form

NOW = (0.0,) * 4  # tried as often, without waiting
GOOD = ("anna/support-bot", "anna/a", "Anna_1/x.y-z", "a/b", "anna/" + "x" * 91)
BAD = (
    *("", "support-bot", "a/b/c", "anna/", "/bot", "anna/-bot", "anna/bot.", "anna/.bot"),
    *("anna/my bot", "anna/böt", "anna/a--b", "anna/a..b", "anna/bot.git", "../etc", "a/../b"),
    *("anna/" + "x" * 92, "anna/b;rm", "anna/$(id)", "anna/a\nb", "https://hf.co/anna/bot"),
)


def problems(target, token=TOKEN):
    with pytest.raises(HubError) as refusal:
        check_target(target, token, waits=NOW)
    assert TOKEN not in str(refusal.value)
    return refusal.value.problems


@pytest.mark.parametrize("repo", GOOD)
def test_a_name_that_is_taken_here_is_taken_by_the_client(repo):
    validate_repo_id(repo)
    assert list(name_problems(repo)) == []


@pytest.mark.parametrize("repo", BAD)
def test_a_name_that_cannot_be_one_is_refused_before_the_hub_is_asked(hub, repo):
    assert len(problems(Target(repo))) == 1
    assert hub.requests == []


@pytest.mark.parametrize(
    "branch", ["a b", "../main", "x..y", "-x", "x.lock", "a//b", "v1/", "a" * 40]
)
def test_a_revision_that_is_no_branch_is_refused(branch):
    with pytest.raises(HubError, match="revision="):
        require_form(Target("anna/bot", revision=branch))


def test_all_that_is_wrong_with_the_form_is_said_at_once():
    with pytest.raises(HubError) as refusal:
        require_form(Target("bot", revision="a b"))
    assert len(refusal.value.problems) == 2


@pytest.mark.parametrize("token", [None, ""])
def test_without_a_token_nothing_is_asked_and_the_machines_login_is_not_used(
    hub, monkeypatch, token
):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "Nobody is signed in" in problems(Target("anna/bot"), token)[0]
    assert hub.requests == []


@pytest.mark.parametrize("token", ["hf_a b", "hf_a\r\nX-Evil: 1", "hf_é"])
def test_what_cannot_be_a_header_is_no_token(hub, token):
    assert "no token" in problems(Target("anna/bot"), token)[0]
    assert hub.requests == []


def test_an_unknown_token_is_a_sentence(hub):
    assert "does not know this token (401)" in problems(Target("anna/bot"), "hf_other")[0]


def test_a_new_repo_in_ones_own_name_may_be_pushed_to(hub):
    facts = check_target(Target("anna/bot"), TOKEN)
    assert (facts.user, facts.exists, facts.private, facts.needs_yes) == (
        "anna",
        False,
        True,
        False,
    )
    assert facts.url == f"{hub.url}/anna/bot"
    assert hub.repos == {}, "looking creates nothing"


def test_an_organisation_in_which_one_may_write_may_be_pushed_to(hub):
    assert check_target(Target("clinic/bot"), TOKEN).user == "anna"


def test_an_organisation_in_which_one_may_only_read_is_refused(hub):
    assert "may only read in press" in problems(Target("press/bot"))[0]


def test_somebody_elses_name_is_refused_with_ones_own_as_remedy(hub):
    assert "Push to anna/bot" in problems(Target("bea/bot"))[0]


def test_a_token_that_only_reads_is_refused_even_where_create_would_have_succeeded(hub):
    hub.add_user("carl", "hf_reads", role="read")
    hub.add_repo("carl/bot")
    from huggingface_hub import HfApi

    assert HfApi(token="hf_reads").create_repo("carl/bot", exist_ok=True), "the trap is there"
    assert "may only read" in problems(Target("carl/bot"), "hf_reads")[0]


@pytest.mark.parametrize(
    ("scoped", "granted"),
    [
        ({"user/dora": ("repo.content.read", "repo.write")}, True),
        ({"model/dora/bot": ("repo.write",)}, True),
        ({"user/dora": ("repo.content.read",)}, False),
        ({"model/dora/other": ("repo.write",)}, False),
        ({}, False),
    ],
)
def test_a_fine_grained_token_writes_where_it_was_granted(hub, scoped, granted):
    hub.add_user("dora", "hf_fine", role="fineGrained", scoped=scoped)
    if granted:
        assert check_target(Target("dora/bot"), "hf_fine").user == "dora"
    else:
        assert "fine-grained token may not write" in problems(Target("dora/bot"), "hf_fine")[0]


def test_a_repo_without_files_needs_no_yes(hub):
    hub.add_repo("anna/bot")
    facts = check_target(Target("anna/bot"), TOKEN)
    assert facts.exists and not facts.needs_yes


def test_a_repo_with_files_needs_a_yes_that_names_it(hub):
    hub.add_repo("anna/bot", {"model.safetensors": b"old"})
    assert check_target(Target("anna/bot"), TOKEN).needs_yes
    assert check_target(Target("anna/bot", overwrite="anna/other"), TOKEN).needs_yes
    assert not check_target(Target("anna/bot", overwrite="anna/bot"), TOKEN).needs_yes


def test_a_branch_that_is_not_there_yet_needs_no_yes(hub):
    hub.add_repo("anna/bot", {"model.safetensors": b"old"})
    facts = check_target(Target("anna/bot", revision="v2"), TOKEN)
    assert not facts.needs_yes
    assert facts.url == f"{hub.url}/anna/bot/tree/v2"


def test_a_private_push_is_refused_by_a_public_repo(hub):
    hub.add_repo("anna/bot", private=False)
    assert "anna/bot is public" in problems(Target("anna/bot"))[0]
    assert not check_target(Target("anna/bot", private=False), TOKEN).private


def test_a_public_push_to_a_private_repo_leaves_it_private(hub):
    hub.add_repo("anna/bot", private=True)
    assert check_target(Target("anna/bot", private=False), TOKEN).private


def test_all_that_is_wrong_on_the_hub_is_said_at_once(hub):
    hub.add_user("carl", "hf_reads", role="read", orgs={"clinic": "read"})
    hub.add_repo("clinic/bot", private=False)
    assert len(problems(Target("clinic/bot"), "hf_reads")) == 3
