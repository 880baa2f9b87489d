"""
What a Space has at the Hub beside its files: hardware, sleep time, variables, secrets, storage.

    settings = SpaceSettings(plan, api)
    settings.create()                  or, where it exists: settings.configure(), settings.power()
    settings.require_as_planned()      all of it read back

A new Space is made with all of them in one request, so that what the Hub refuses (hardware that is
not paid for) leaves nothing behind.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tuner.errors import HubError
from tuner.hub.api import WAITS, hub_sentences, patiently
from tuner.hub.space import DATA
from tuner.hub.space_plan import ALWAYS_AWAKE, SpacePlan

if TYPE_CHECKING:
    from huggingface_hub import HfApi, SpaceRuntime, Volume

Step = tuple[str, Callable[[], object]]


class SpaceSettings:
    """What one Space has at the Hub beside its files.

    Args:
        api: The client of who may change them.
        waits: See `api.patiently`.
    """

    def __init__(self, plan: SpacePlan, api: "HfApi", waits: Sequence[float] = WAITS):
        self.plan, self.api, self.waits = plan, api, waits
        self.repo = plan.repo

    def create(self) -> None:
        """Make the Space with all of them, or leave nothing.

        Raises:
            HubError: Why not.
        """
        from huggingface_hub.errors import HfHubHTTPError

        self._make_bucket()
        with hub_sentences("create the Space", self.repo):
            try:
                patiently(self._create_repo, self.waits)
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
                # An answer was lost, or somebody was faster: whose it is cannot be told.
                raise HubError(
                    f"The Space {self.repo} exists by now. Look at it; to go on with it, confirm "
                    f"with its name, {self.repo}, or choose another name."
                ) from None

    def configure(self) -> None:
        """Set, in a Space that exists, what its files must find when they start it.

        Raises:
            HubError: Every setting that could not be set, and why.
        """
        self._make_bucket()
        self._require(self._environment_steps())

    def power(self) -> None:
        """Give a Space that exists its hardware, which may cost from then on.

        Raises:
            HubError: Why not.
        """
        # Asked for again, it would be restarted for nothing.
        if list(self._hardware_differences(self._runtime())):
            self._require(self._hardware_steps())

    def require_as_planned(self) -> None:
        """Read all of them back.

        Raises:
            HubError: What the Hub shows otherwise than it was asked for.
        """
        if problems := list(self._differences()):
            raise HubError(problems)

    def _create_repo(self) -> None:
        plan = self.plan
        self.api.create_repo(
            self.repo,
            repo_type="space",
            space_sdk="gradio",
            private=plan.private,
            space_hardware=plan.hardware,  # type: ignore[arg-type]  # it takes names, too
            space_sleep_time=plan.sleep_seconds,
            space_secrets=_pairs(plan.secrets),
            space_variables=_pairs(plan.variables),
            space_volumes=self._volumes() or None,
        )

    def _make_bucket(self) -> None:
        if (bucket := self.plan.bucket) is None:
            return
        with hub_sentences("make the bucket", bucket):
            patiently(
                lambda: self.api.create_bucket(bucket, private=True, exist_ok=True), self.waits
            )

    def _environment_steps(self) -> Iterator[Step]:
        api, repo = self.api, self.repo
        for name, value in self.plan.variables.items():
            yield (
                f"set the variable {name} of",
                lambda name=name, value=value: api.add_space_variable(repo, name, value),  # type: ignore[misc]
            )
        for name, value in self.plan.secrets.items():
            yield (
                f"set the secret {name} of",
                lambda name=name, value=value: api.add_space_secret(repo, name, value),  # type: ignore[misc]
            )
        if self.plan.bucket:
            yield "mount the bucket in", lambda: api.set_space_volumes(repo, self._volumes())

    def _hardware_steps(self) -> Iterator[Step]:
        plan = self.plan
        yield (
            f"get the hardware {plan.hardware} for",
            lambda: self.api.request_space_hardware(
                self.repo,
                plan.hardware,  # type: ignore[arg-type]
                sleep_time=plan.sleep_seconds,
            ),
        )

    def _require(self, steps: Iterator[Step]) -> None:
        """Take every step; those that fail are told together."""
        problems: list[str] = []
        for doing, step in steps:
            try:
                with hub_sentences(doing, self.repo):
                    patiently(step, self.waits)
            except HubError as error:
                problems += error.problems
        if problems:
            raise HubError(problems)

    def _runtime(self) -> "SpaceRuntime":
        with hub_sentences("look at the hardware of", self.repo):
            return patiently(lambda: self.api.get_space_runtime(self.repo), self.waits)

    def _differences(self) -> Iterator[str]:
        """What the Hub shows otherwise than it was asked for."""
        runtime = self._runtime()
        yield from self._hardware_differences(runtime)
        yield from self._environment_differences()
        mounted, bucket = [volume.source for volume in runtime.volumes or ()], self.plan.bucket
        if bucket and bucket not in mounted:
            yield f"the bucket {bucket} is not mounted on {DATA}. Mount it in its settings."

    def _hardware_differences(self, runtime: "SpaceRuntime") -> Iterator[str]:
        wanted, has = self.plan.hardware, runtime.requested_hardware or runtime.hardware
        if has != wanted:
            yield f"its hardware is {has} and not {wanted}. Choose it in its settings."
        if self.plan.sleep_seconds not in (None, runtime.sleep_time or ALWAYS_AWAKE):
            yield "its sleep time is another one. Set it in its settings."

    def _environment_differences(self) -> Iterator[str]:
        with hub_sentences("read back the settings of", self.repo):
            variables = patiently(lambda: self.api.get_space_variables(self.repo), self.waits)
            secrets = patiently(lambda: self.api.get_space_secrets(self.repo), self.waits)
        shown = {name: variable.value for name, variable in variables.items()}
        for name, value in self.plan.variables.items():
            if shown.get(name) != value:
                yield f"its variable {name} is not {value}. Set it in its settings."
        for name in self.plan.secrets:
            if name not in secrets:
                yield f"its secret {name} is missing. Add it in its settings."

    def _volumes(self) -> "list[Volume]":
        from huggingface_hub import Volume

        bucket = self.plan.bucket
        return [Volume(type="bucket", source=bucket, mount_path=DATA)] if bucket else []


def _pairs(named: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in named.items()]
