"""Making a Space of this app, by the real client, on a Hub that may refuse parts of it."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.hub.conftest import TOKEN
from tuner.cli.deploy import deploy as deploy_command
from tuner.data.sources import PROJECT_ROOT
from tuner.errors import HubError, RecipeError
from tuner.hub.deploy import SpacePlan, check_space, deploy_space
from tuner.hub.space_files import FILES, FOLDERS, front_matter, space_files
from tuner.hub.space_prices import LISTED_ON

REPO = "anna/tuner"
NOW = (0.0,) * 4
SECRET = "s3cr3t-of-the-space"


@pytest.fixture
def small(tmp_path):
    """A project with little in it, and with what must never leave."""
    root = tmp_path / "project"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("---\ntitle: Tuner\nsdk: gradio\n---\n# Tuner\n")
    ours = {
        "tuner/page.py": "print()",
        "tuner/starter/model/config.json": "{}",
        "tuner/starter/model/model.safetensors": "weights" * 1000,
        "presets/data/chatbot.jsonl": "{}",
        "docs/images/run.png": "a picture",
    }
    theirs = (
        *("runs/a-run/adapter/adapter_model.safetensors", ".venv/lib/x.py", ".git/config"),
        *("tuner/.env", "tuner/token.json", "tuner/__pycache__/page.py", "tuner/.cache/page.py"),
        *("presets/data/patients.csv", "docs/notes.txt", ".env", "secrets.yaml", "tests/test_a.py"),
    )
    for name, text in {**ours, **dict.fromkeys(theirs, "private")}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "tuner" / "link.py").symlink_to(root / ".env")
    return root


def deployed(root: Any, plan: SpacePlan) -> Any:
    """All messages; the last one is Deployed."""
    return list(deploy_space(plan, TOKEN, root=root, waits=NOW))


def failure(root: Any, plan: SpacePlan) -> str:
    with pytest.raises(HubError) as refusal:
        deployed(root, plan)
    assert TOKEN not in str(refusal.value) and SECRET not in str(refusal.value)
    return str(refusal.value)


def contents(hub: Any) -> dict[str, bytes]:
    files: dict[str, bytes] = hub.repos[f"spaces/{REPO}"].contents()
    return files


def test_a_space_is_private_and_has_the_projects_own_files_and_settings(hub, small):
    plan = SpacePlan(
        REPO,
        hardware="t4-small",
        sleep_minutes=30,
        secrets={"WANDB_KEY": SECRET},
        training="signed-in",
        bucket="anna/data",
    )
    told = deployed(small, plan)
    stages = [message["stage"] for message in told[:-1]]
    assert list(dict.fromkeys(stages)) == [
        *("checking", "creating", "hashing", "uploading", "committing", "verifying")
    ]
    space = hub.repos[f"spaces/{REPO}"]
    assert told[-1] == {
        "kind": "deployed",
        "url": f"{hub.url}/spaces/{REPO}",
        "commit": space.at().oid,
        "files": 9,
        "bytes": sum(len(content) for name, content in contents(hub).items() if name[0] != "."),
        "unchanged": False,
        "created": True,
    }
    assert space.private and space.sdk == "gradio"
    assert set(contents(hub)) == {".gitattributes", *space_files(small)}
    assert space.at().files["tuner/starter/model/model.safetensors"].is_lfs
    assert hub.space_settings[REPO] == {
        "secrets": {"WANDB_KEY": SECRET},
        "variables": {"TUNER_TRAINING": "signed-in"},
        "hardware": "t4-small",
        "sleep_time": 1800,
        "volumes": [{"type": "bucket", "source": "anna/data", "mountPath": "/data"}],
    }
    assert hub.repos["buckets/anna/data"].private


def test_only_what_is_listed_leaves_a_project(small):
    assert sorted(space_files(small)) == [
        *("LICENSE", "README.md", "app.py", "docs/images/run.png", "presets/data/chatbot.jsonl"),
        *("requirements.txt", "tuner/page.py", "tuner/starter/model/config.json"),
        "tuner/starter/model/model.safetensors",
    ]


def test_a_space_gets_every_file_that_a_clone_has_and_the_page_needs():
    command = ["git", "ls-files", "tuner", "presets", "docs/images"]
    listed = subprocess.run(command, cwd=PROJECT_ROOT, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("This is no clone.")
    tracked = {name for name in listed.stdout.split() if (PROJECT_ROOT / name).is_file()}
    assert tracked and tracked <= set(space_files())
    assert {name.split("/")[0] for name in space_files() if "/" in name} <= {
        folder.split("/")[0] for folder in FOLDERS
    }


def test_a_copy_that_lacks_a_part_is_not_deployed(hub, small):
    (small / "requirements.txt").unlink()
    assert failure(small, SpacePlan(REPO)).startswith("requirements.txt is missing in project")
    assert not hub.asked("POST", "/repos/create")


@pytest.mark.parametrize(
    ("hardware", "python"), [("cpu-basic", None), ("zero-a10g", "3.12.12")], ids=["cpu", "zero"]
)
def test_the_card_is_made_for_the_space_it_is_in(hub, small, hardware, python):
    deployed(small, SpacePlan(REPO, hardware=hardware))
    settings, body = front_matter(contents(hub)["README.md"].decode())
    assert body == "# Tuner\n"
    assert settings.pop("thumbnail") == (
        f"https://huggingface.co/spaces/{REPO}/resolve/main/docs/images/fine-tune.png"
    )
    assert settings == {"title": "Tuner", "sdk": "gradio"} | (
        {"python_version": python} if python else {}
    )
    assert hub.space_settings[REPO]["sleep_time"] is None  # free hardware has the Hub's own


def test_what_the_hub_does_not_give_leaves_no_space_behind(hub, small):
    hub.fail("POST", "/repos/create", status=402, message="Payment required")
    sentence = failure(small, SpacePlan(REPO, hardware="l4x1"))
    assert "Could not create the Space anna/tuner" in sentence and "paid for" in sentence
    assert f"spaces/{REPO}" not in hub.repos


def test_a_space_that_exists_needs_its_name_as_a_yes_and_loses_modules_that_are_gone(hub, small):
    hub.add_repo(
        REPO,
        {"app.py": b"other", "tuner/old.py": b"old", "notes.md": b"kept"},
        kind="spaces",
        sdk="gradio",
    )
    before = contents(hub)
    assert f"confirm with its name, {REPO}," in failure(small, SpacePlan(REPO))
    assert contents(hub) == before and not hub.space_settings
    done = deployed(small, SpacePlan(REPO, hardware="l4x1", secrets={"A": SECRET}, overwrite=REPO))[
        -1
    ]
    assert not done["created"] and not done["unchanged"]
    assert set(contents(hub)) == {".gitattributes", "notes.md", *space_files(small)}
    settings = hub.space_settings[REPO]
    assert (settings["hardware"], settings["secrets"]) == ("l4x1", {"A": SECRET})
    again = deployed(small, SpacePlan(REPO, hardware="l4x1", overwrite=REPO))[-1]
    assert again["unchanged"] and again["commit"] == done["commit"]
    assert len(hub.asked("POST", "/hardware")) == 1  # asked again, it would restart for nothing


def test_a_private_plan_does_not_fill_a_public_space(hub, small):
    hub.add_repo(REPO, {"app.py": b"x"}, kind="spaces", sdk="gradio", private=False)
    assert "is public" in failure(small, SpacePlan(REPO, overwrite=REPO))
    assert contents(hub)["app.py"] == b"x"


@pytest.mark.parametrize(
    ("method", "path", "part"),
    [
        ("POST", "/hardware", "could not get the hardware l4x1 for anna/tuner"),
        ("POST", "/secrets", "could not set the secret A of anna/tuner"),
        ("POST", "/commit/", "could not push to anna/tuner"),
        ("GET", "/variables", "could not read back the settings of anna/tuner"),
    ],
)
def test_what_fails_in_a_space_that_exists_is_told_with_what_exists(hub, small, method, path, part):
    hub.add_repo(REPO, kind="spaces", sdk="gradio")
    hub.fail(method, path, status=403)
    plan = SpacePlan(REPO, hardware="l4x1", secrets={"A": SECRET}, overwrite=REPO)
    assert f"The Space {hub.url}/spaces/{REPO} exists, but {part}" in failure(small, plan)


def test_a_setting_that_the_hub_shows_otherwise_is_not_called_done(hub, small):
    answer = {"stage": "RUNNING", "hardware": {"current": "cpu-basic", "requested": None}}
    hub.fail("GET", "/runtime", status=200, body=json.dumps(answer).encode())
    sentence = failure(small, SpacePlan(REPO, hardware="l4x1", sleep_minutes=60))
    assert "exists, but its hardware is cpu-basic and not l4x1." in sentence
    assert "its sleep time is another one." in sentence
    assert contents(hub)["app.py"]


def test_a_lost_answer_to_the_creation_is_not_taken_for_a_yes(hub, small):
    hub.fail("POST", "/repos/create", loses_response=True, times=1)
    assert "exists by now" in failure(small, SpacePlan(REPO))
    assert set(contents(hub)) == {".gitattributes", "README.md"}


@pytest.mark.parametrize(
    ("plan", "part"),
    [
        (SpacePlan("tuner"), "has no owner"),
        (SpacePlan("bob/tuner"), "belongs to bob"),
        (SpacePlan(REPO, bucket="data"), "has no owner"),
        (SpacePlan(REPO, sleep_minutes=1), "sleep=1 is too short"),
        (SpacePlan(REPO, secrets={"A B": "x"}), "cannot be a variable's name"),
        (SpacePlan(REPO, secrets={"A": ""}), "The secret A is empty"),
        (SpacePlan(REPO, secrets={"HF_TOKEN": "x"}, training="signed-in"), "could read your"),
        (SpacePlan(REPO, hardware="t5"), "hardware=t5 is none that the Hub has"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_plan_that_cannot_be_is_refused_before_anything_is_made(hub, small, plan, part):
    assert part in failure(small, plan)
    assert not hub.repos


def cost(plan: SpacePlan) -> str:
    return "\n".join(check_space(plan, TOKEN, waits=NOW).cost)


def test_the_cost_is_the_hubs_own_price(hub):
    said = cost(SpacePlan(REPO, hardware="t4-small", sleep_minutes=60))
    assert "t4-small costs $0.40 an hour while the Space is awake, as the Hub lists it now." in said
    assert "sleeps after 60 minutes without a visitor (at most $0.40 of waiting each time)" in said
    assert "about $292 a month" in cost(SpacePlan(REPO, hardware="t4-small", sleep_minutes=None))
    assert "costs nothing by the hour" in cost(SpacePlan(REPO))
    assert "Training is not possible there" in cost(SpacePlan(REPO, hardware="zero-a10g"))


def test_where_the_hub_tells_no_price_ours_is_told_with_its_date_or_none(hub):
    hub.fail("GET", "/api/spaces/hardware", status=500)
    assert f"$0.80 an hour while the Space is awake, as listed on {LISTED_ON}" in cost(
        SpacePlan(REPO, hardware="l4x1")
    )
    assert "What h200x8 costs is not known here" in cost(SpacePlan(REPO, hardware="h200x8"))


def shell(hub: Any, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tuner", "deploy", *words],
        cwd=PROJECT_ROOT,
        check=False,
        env=os.environ | hub.environment | {"HF_TOKEN": TOKEN} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_shell_says_what_it_costs_and_makes_nothing_without_a_yes(hub):
    asked = shell(hub, REPO, "--hardware", "t4-small")
    assert asked.returncode == 1 and not hub.repos
    assert "$0.40 an hour" in asked.stderr and "Go on?" in asked.stderr
    assert "private Space" in asked.stderr
    refused = shell(hub, REPO, "--json")
    assert refused.returncode == 2 and not hub.repos
    assert "Add --yes" in json.loads(refused.stdout)["error"]


def test_the_shell_deploys_this_very_project_and_keeps_its_secrets_to_itself(hub):
    words = (REPO, "--hardware", "t4-small", "--secret", "WANDB_KEY", "--yes", "--json")
    done = shell(hub, *words, WANDB_KEY=SECRET)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["space"], document["dollars_per_hour"]) == (REPO, 0.4)
    held = contents(hub)
    assert set(held) == {".gitattributes", *space_files()}
    weights = "tuner/starter/model/model.safetensors"
    assert held[weights] == (PROJECT_ROOT / weights).read_bytes()
    assert hub.space_settings[REPO]["secrets"] == {"WANDB_KEY": SECRET}
    for said in (done.stdout, done.stderr, *(str(content) for content in held.values())):
        assert SECRET not in said and TOKEN not in said
    again = shell(hub, REPO, "--yes")
    assert again.returncode == 2 and f"add --yes-overwrite {REPO}," in again.stderr


@pytest.mark.parametrize(
    ("given", "part"),
    [("NOT_SET_HERE", "this shell has no such variable"), ("hf_abc", "never its value")],
)
def test_a_secret_is_a_variables_name_and_what_is_no_name_is_not_repeated(given, part):
    with pytest.raises(RecipeError, match=part) as refusal:
        deploy_command(REPO, secret=[given])
    assert "hf_abc" not in str(refusal.value)
