"""What the small Hub holds: people with tokens, and repos with branches of commits."""

import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

MAY_WRITE = ("admin", "write", "contributor")
KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class User:
    """Somebody with one token.

    Attributes:
        role: What the token may do: read, write, or fineGrained by `scoped`.
        orgs: Organisation → the person's role in it: admin, write, contributor or read.
        scoped: Of a fineGrained token: entity ("user/anna", "org/clinic", "model/anna/x") →
            permissions, such as repo.write.
    """

    name: str
    token: str = field(repr=False)
    role: str = "write"
    orgs: dict[str, str] = field(default_factory=dict)
    scoped: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def may_read(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs

    def may_write(self, namespace: str, repo: str) -> bool:
        if self.role == "fineGrained":
            entities = (f"user/{namespace}", f"org/{namespace}", f"model/{repo}")
            if not any("repo.write" in self.scoped.get(entity, ()) for entity in entities):
                return False
        elif self.role == "read":
            return False
        return namespace == self.name or self.orgs.get(namespace) in MAY_WRITE

    def whoami(self) -> dict[str, Any]:
        orgs = [
            {"type": "org", "id": f"org-{name}", "name": name, "fullname": name, "roleInOrg": role}
            for name, role in self.orgs.items()
        ]
        token: dict[str, Any] = {"displayName": "tests", "role": self.role}
        if self.role == "fineGrained":
            token["fineGrained"] = {
                "canReadGatedRepos": False,
                "global": [],
                "scoped": [
                    {
                        "entity": {"type": entity.split("/")[0], "name": entity.split("/", 1)[1]},
                        "permissions": list(permissions),
                    }
                    for entity, permissions in self.scoped.items()
                ],
            }
        me = {"type": "user", "id": f"user-{self.name}", "name": self.name, "fullname": self.name}
        auth = {"type": "access_token", "accessToken": token}
        return {**me, "isPro": False, "orgs": orgs, "auth": auth}


@dataclass(frozen=True)
class File:
    """One version of a file. Those in LFS are known by their sha256, others by git's own hash."""

    content: bytes = field(repr=False)
    is_lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}")
        return "\n".join((*lines, f"size {len(self.content)}\n")).encode()

    @property
    def blob_id(self) -> str:
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    def tree_entry(self, path: str) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.blob_id}
        if self.is_lfs:
            size, pointer = len(self.content), len(self.pointer)
            entry["lfs"] = {"oid": self.sha256, "size": size, "pointerSize": pointer}
        return entry


@dataclass(frozen=True)
class Commit:
    """A state of all files, and who made it why."""

    oid: str
    message: str
    author: str
    files: dict[str, File]
    time: float


@dataclass
class Repo:
    """One repo, newest commit of each branch last."""

    id: str
    kind: str
    private: bool
    sdk: str | None = None
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def commit(
        self, branch: str, files: dict[str, File], message: str, author: str = "tests"
    ) -> Commit:
        commits = self.branches.setdefault(branch, [])
        oid = hashlib.sha1(os.urandom(20)).hexdigest()
        commits.append(Commit(oid, message, author, files, time.time()))
        return commits[-1]

    def at(self, revision: str = "main") -> Commit | None:
        """The commit of a branch or with an id; None where there is none."""
        if commits := self.branches.get(revision):
            return commits[-1]
        known = [commit for commits in self.branches.values() for commit in commits]
        return next((commit for commit in known if commit.oid == revision), None)

    def contents(self, revision: str = "main") -> dict[str, bytes]:
        """Path → bytes of every file, for tests to look at."""
        commit = self.at(revision)
        assert commit, f"{self.id} has no revision {revision}"
        return {path: file.content for path, file in commit.files.items()}

    def card_data(self, commit: Commit) -> dict[str, Any]:
        import yaml

        readme = commit.files.get("README.md")
        text = readme.content.decode() if readme else ""
        if not text.startswith("---\n"):
            return {}
        loaded = yaml.safe_load(text[4:].partition("\n---")[0])
        return json.loads(json.dumps(loaded, default=str)) if isinstance(loaded, dict) else {}
