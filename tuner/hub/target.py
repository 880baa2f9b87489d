"""
Where a push goes, checked before anything is uploaded or even put together.

    facts = check_target(Target("anna/support-bot"), token)

Asked of the Hub: who the token belongs to, whether it may write there, and what is there already.
`create` alone would not tell: where a repo exists, it succeeds with a token that only reads.
Not covered: storage quotas, which the Hub tells only when files come.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tuner.errors import HubError
from tuner.hub.api import WAITS, endpoint, hub_api, hub_sentences, patiently
from tuner.hub.failures import TOKENS

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, SpaceInfo

    RepoInfo = ModelInfo | SpaceInfo

MAIN = "main"
LONGEST_ID = 96
FORM = "Write user/name, such as anna/support-bot"
OF_THE_HUB = (".gitattributes",)  # what the Hub itself puts into a new repo
WRITERS = ("admin", "write", "contributor")

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_BRANCH = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]*[A-Za-z0-9_-])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Target:
    """Where a push goes.

    Attributes:
        repo: `user/name`, or an organisation's name in place of the user's.
        private: Never let it be seen by others; a public repo is then refused.
        revision: A branch, made where it is missing; None is main.
        overwrite: The repo's name, typed as a yes to replacing what it holds.
        kind: Of repo; deploy.py makes Spaces and gives them what they need beside files.
    """

    repo: str
    private: bool = True
    revision: str | None = None
    overwrite: str = ""
    kind: Literal["model", "space"] = "model"

    @property
    def branch(self) -> str:
        return self.revision or MAIN


@dataclass(frozen=True)
class TargetFacts:
    """What the Hub says of a target.

    Attributes:
        user: Whose token it is.
        exists: Whether the repo does.
        private: Whether it is, or will be.
        url: Its page.
        needs_yes: Something would be replaced, and the target does not name its repo as a yes. A
            push that changes nothing needs none.
    """

    user: str
    exists: bool
    private: bool
    url: str
    needs_yes: bool


def check_target(
    target: Target, token: str | None, *, waits: Sequence[float] = WAITS
) -> TargetFacts:
    """Ask the Hub whether a push to this target can work.

    Args:
        waits: See `patiently`.

    Raises:
        HubError: Every problem that was found.
    """
    require_form(target)
    return facts_of(hub_api(require_token(target, token)), target, waits)


def require_token(target: Target, token: str | None) -> str:
    """The token, without which nothing is asked. A header's characters only: it goes into one.

    Raises:
        HubError: There is none, or it cannot be one.
    """
    if not token:
        raise HubError(
            f"Nobody is signed in, so nothing can be pushed to {target.repo}. Sign in, run "
            "`hf auth login`, or set HF_TOKEN to a token that may write."
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise HubError(f"This is no token of the Hub. Copy it again from {TOKENS}.")
    return token


def facts_of(api: "HfApi", target: Target, waits: Sequence[float] = WAITS) -> TargetFacts:
    """As `check_target`, by a client that is somebody's, for a target whose form is right."""
    with hub_sentences("sign in to push to", target.repo):
        me = patiently(api.whoami, waits)
        user = str(me["name"])
    found = state_of(api, target, waits)
    problems = [*rights_problems(me, target.repo), *state_problems(target, found)]
    if problems:
        raise HubError(problems)
    return TargetFacts(
        user=user,
        exists=found is not None,
        private=bool(found.private) if found else target.private,
        url=url_of(target),
        needs_yes=bool(held_files(found)) and target.overwrite != target.repo,
    )


def require_form(target: Target) -> None:
    """Check what can be checked without the Hub.

    Raises:
        HubError: A name that cannot be one.
    """
    problems = [*name_problems(target.repo), *branch_problems(target.branch)]
    if problems:
        raise HubError(problems)


def name_problems(repo: str) -> Iterator[str]:
    """What is wrong with the name of a repo, by the Hub's rules.

    >>> list(name_problems("anna/support-bot"))
    []
    >>> list(name_problems("support-bot"))
    ['The repo support-bot has no owner. Write user/name, such as anna/support-bot.']
    """
    shown = repo if len(repo) <= 120 else repo[:119] + "…"
    parts = repo.split("/")
    if len(parts) == 1:
        yield f"The repo {shown} has no owner. {FORM}." if repo else f"There is no repo. {FORM}."
    elif len(parts) > 2:
        yield f"The repo {shown} has more than one slash. {FORM}."
    elif not all(_PART.fullmatch(part) for part in parts):
        yield (
            f"The repo {shown} cannot be named so: letters, digits, - _ and . only, and neither - "
            f"nor . at an end. {FORM}."
        )
    elif "--" in repo or ".." in repo or repo.endswith(".git"):
        yield f"The repo {shown} cannot hold -- or .. or end with .git. {FORM}."
    elif len(repo) > LONGEST_ID:
        yield (
            f"The repo's name has {len(repo)} characters; the Hub takes {LONGEST_ID}. Shorten it: "
            f"{shown}"
        )


def branch_problems(branch: str) -> Iterator[str]:
    """What is wrong with the name of a branch.

    >>> list(branch_problems("v1.0")), len(list(branch_problems("../main")))
    ([], 1)
    """
    forbidden = ("..", "//", "/.", ".lock")
    if _COMMIT.fullmatch(branch):
        yield f"revision={branch} is a commit, and commits do not change. Give a branch."
    elif not _BRANCH.fullmatch(branch) or any(part in branch for part in forbidden):
        yield (
            f"revision={branch[:120]} is no name of a branch. Leave it out for {MAIN}, or use "
            "letters, digits, - _ . and /."
        )


def rights_problems(me: Mapping[str, Any], repo: str) -> Iterator[str]:
    """Why this person's token may not write to a repo, as far as whoami tells.

    A token without a role (of a sign-in) is let pass: the Hub decides when it is used.
    """
    namespace = repo.split("/")[0]
    roles = {org.get("name"): org.get("roleInOrg") for org in me.get("orgs") or ()}
    if namespace != me["name"] and namespace not in roles:
        yield (
            f"{repo} belongs to {namespace}, and {me['name']} is no member there. Push to "
            f"{me['name']}/{repo.split('/')[1]}, or use a token of {namespace}."
        )
    elif namespace != me["name"] and roles[namespace] not in (*WRITERS, None):
        yield (
            f"{me['name']} may only read in {namespace} (role {roles[namespace]}). Ask an admin "
            f"there, or push to {me['name']}/{repo.split('/')[1]}."
        )
    token = (me.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        yield f"This token may only read, not write {repo}. Make one with write access at {TOKENS}."
    elif token.get("role") == "fineGrained" and not _is_granted(token, namespace, repo):
        yield (
            f"This fine-grained token may not write to {repo}. Give it write access to the repos "
            f"of {namespace} at {TOKENS}."
        )


def _is_granted(token: Mapping[str, Any], namespace: str, repo: str) -> bool:
    scoped = (token.get("fineGrained") or {}).get("scoped")
    if scoped is None:
        return True  # not told: the Hub decides
    for entry in scoped:
        entity = entry.get("entity") or {}
        if entity.get("name") in (namespace, repo) and "repo.write" in (
            entry.get("permissions") or ()
        ):
            return True
    return False


def state_of(api: "HfApi", target: Target, waits: Sequence[float]) -> "RepoInfo | None":
    """What the repo is, at the target's branch or else at main; None where there is no repo."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def ask(revision: str | None) -> "RepoInfo":
        return patiently(lambda: info_of(api, target, revision), waits)

    with hub_sentences("look at", target.repo):
        try:
            return ask(target.revision)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None
        except RevisionNotFoundError:
            found = ask(None)
            found.siblings = []  # the branch is new, so nothing in it is replaced
            return found


def info_of(api: "HfApi", target: Target, revision: str | None) -> "RepoInfo":
    """What the Hub tells of a repo at a revision."""
    if target.kind == "space":
        return api.space_info(target.repo, revision=revision)
    return api.model_info(target.repo, revision=revision)


def state_problems(target: Target, found: "RepoInfo | None") -> Iterator[str]:
    """What forbids a push to the repo as it stands."""
    if found and target.private and not found.private:
        yield (
            f"{target.repo} is public, and this push is private. Choose another name, or push "
            "publicly on purpose."
        )


def held_files(found: "RepoInfo | None") -> list[str]:
    """Files that somebody put into a repo."""
    names = [sibling.rfilename for sibling in (found.siblings or [])] if found else []
    return [name for name in names if name not in OF_THE_HUB]


def url_of(target: Target) -> str:
    """The page of the target."""
    page = f"{endpoint()}/{'spaces/' if target.kind == 'space' else ''}{target.repo}"
    return page if target.branch == MAIN else f"{page}/tree/{target.branch}"
