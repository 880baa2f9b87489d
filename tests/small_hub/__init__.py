"""
A small Hub on this machine, for the real client in real processes.

    with small_hub(tmp_path) as hub:
        hub.add_user("anna", "hf_…", role="write", orgs={"clinic": "write"})
        subprocess.run(..., env={**os.environ, **hub.environment})

It speaks the protocol of huggingface_hub 2.4 on two ports, as the real one does: the Hub, and a
storage that never sees a token. Accounts and roles, models and Spaces (private ones do not exist
for strangers), commits, branches, Git LFS and Xet uploads, downloads with ranges; and every fault
on request, by method and a part of the path: `hub.fail("POST", "/commit/", status=500)`.
Not covered: git itself, pull requests, gated repos, search, rate limits that nobody asked for.
"""

from tests.small_hub.faults import Asked, Fault
from tests.small_hub.server import SmallHub, small_hub
from tests.small_hub.state import Repo, User

__all__ = ["Asked", "Fault", "Repo", "SmallHub", "User", "small_hub"]
