"""A Space of this app as somebody wants it, and what is wrong with that before the Hub is asked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tuner.hub.space_prices import FREE, ZERO_GPU
from tuner.hub.target import Target, name_problems

SLEEP_MINUTES = 480
SHORTEST_SLEEP = 5
ALWAYS_AWAKE = -1  # as the Hub writes it


@dataclass(frozen=True)
class SpacePlan:
    """A Space as it is to be.

    Attributes:
        repo: `user/name`, or an organisation's name in place of the user's.
        hardware: A flavor of the Hub's, such as t4-small.
        sleep_minutes: Without a visitor for so long, it sleeps; None never does. Free hardware has
            the Hub's own time.
        secrets: Name → value, for the Space's environment.
        training: Who may train there beside its owner: nobody, or whoever signs in.
        bucket: `user/name` of the storage on /data, made if it is missing; None leaves the disk
            that a restart empties.
        overwrite: The Space's name, typed as a yes to replacing one that exists.
    """

    repo: str
    private: bool = True
    hardware: str = FREE
    sleep_minutes: int | None = SLEEP_MINUTES
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    training: Literal["owner", "signed-in"] = "owner"
    bucket: str | None = None
    overwrite: str = ""

    @property
    def target(self) -> Target:
        return Target(self.repo, self.private, overwrite=self.overwrite, kind="space")

    @property
    def variables(self) -> dict[str, str]:
        """What its environment says openly."""
        return {"TUNER_TRAINING": self.training}

    @property
    def sleep_seconds(self) -> int | None:
        """As the Hub takes it; None where it cannot be set."""
        if self.hardware in (FREE, ZERO_GPU):
            return None
        return ALWAYS_AWAKE if self.sleep_minutes is None else self.sleep_minutes * 60


def plan_problems(plan: SpacePlan) -> Iterator[str]:
    """Every problem that can be seen without the Hub."""
    if plan.bucket is not None:
        yield from name_problems(plan.bucket)
    for name, value in plan.secrets.items():
        if not name.isidentifier():
            yield f"secret={name[:40]} cannot be a variable's name. Use letters, digits and _."
        elif not value:
            yield f"The secret {name} is empty. Set the variable {name} of this shell first."
    if "HF_TOKEN" in plan.secrets and plan.training == "signed-in":
        yield (
            "The secret HF_TOKEN and training=signed-in do not go together: whoever trains could "
            "read your private models and data by it. Leave one of them out."
        )
    if plan.training not in ("owner", "signed-in"):
        yield f"training={plan.training} is neither owner nor signed-in. Choose one of them."
    if plan.sleep_minutes is not None and plan.sleep_minutes < SHORTEST_SLEEP:
        yield (
            f"sleep={plan.sleep_minutes} is too short. Give {SHORTEST_SLEEP} minutes or more, or "
            "0 for never."
        )
