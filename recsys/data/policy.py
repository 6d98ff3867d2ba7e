"""Which policy is served: whether the items of a history are recommended again, decided on training interactions alone.

Writes and reads `served.json`, beside the rankings of a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from recsys.errors import ArtifactError
from recsys.files import read_json, write_json
from recsys.tables import SEEN_KEPT, SEEN_LEFT_OUT, TRAIN, Interactions, Policy

SERVED_FILE = "served.json"
Setting = Literal["auto", "always", "never"]


class ServedPolicy(NamedTuple):
    """The policy, and what decided it.

    `repeats` of the training `interactions` are with an item that their user has an earlier one with; under the setting
    `auto` seen items are kept where that is a share of `repeat_share` or more.
    """

    policy: Policy
    setting: Setting
    repeats: int
    interactions: int
    repeat_share: float

    @classmethod
    def choose(cls, setting: Setting, interactions: Interactions, *, repeat_share: float) -> Self:
        """By the setting: leave seen items out `always`, `never`, or by the share of repeats (`auto`)."""
        pairs = interactions.frame.filter(split=TRAIN).select("user_id", "item_id")
        repeats = pairs.height - pairs.n_unique() if pairs.height else 0
        often = pairs.height > 0 and repeats / pairs.height >= repeat_share
        kept = setting == "never" or (setting == "auto" and often)
        return cls(SEEN_KEPT if kept else SEEN_LEFT_OUT, setting, repeats, pairs.height, repeat_share)

    def __str__(self) -> str:
        share = 100 * self.repeats / max(1, self.interactions)
        counted = (
            f"{self.repeats:,} of {self.interactions:,} training interactions ({share:.1f} %) repeat an earlier item "
            "of their user"
        )
        if self.setting != "auto":
            return f"{self.policy}, as recommend.exclude_seen={self.setting} has it; {counted}"
        return f"{self.policy}, as {counted}; seen items are kept from {100 * self.repeat_share:g} % on"

    @property
    def exclude_seen(self) -> bool:
        return self.policy == SEEN_LEFT_OUT

    def to_json(self) -> dict[str, Any]:
        return self._asdict()

    def save(self, folder: Path) -> None:
        """Write `served.json` into a folder."""
        write_json(folder / SERVED_FILE, self.to_json())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        try:
            return cls(**read_json(folder / SERVED_FILE))
        except TypeError as error:
            raise ArtifactError(f"{folder / SERVED_FILE} cannot be read ({error}); run `recommend` again") from error
