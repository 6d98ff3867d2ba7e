"""The adapter of a finished language model, trained on: new interactions, and a share of the old ones again.

The backbone stays as it is. What trains is what LoRA trains: the adapter, the rows of code tokens and the vectors of
items. Reads a model's folder, writes another (see `recsys.llm.storage`), which shares the files of the backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recsys.files import fingerprint, link_tree
from recsys.instructions.examples import Example
from recsys.llm.config import RefreshConfig
from recsys.llm.finetuning import Mixture, Trainings, merged_copy
from recsys.llm.storage import LanguageModel, load_adapted, save_adapter
from recsys.tables import SemanticIds
from recsys.tracking import Tracker
from recsys.training.checkpoints import digest
from recsys.training.plan import Progress


class RefreshData(NamedTuple):
    """What an adapter is trained on: new examples, those to draw from again, and the catalogue's semantic ids."""

    new: Sequence[Example]
    replayed: Sequence[Example]
    semantic_ids: SemanticIds

    def mixture(self, config: RefreshConfig, parent: str) -> Mixture:
        """All new examples once an epoch, and so many others that they are the share `config.replay`."""
        count = len(self.new) * config.replay / (1 - config.replay)
        passes = {"new": 1.0, "replayed": count / len(self.replayed) if self.replayed else 0.0}
        content = digest(self.new, self.replayed, self.semantic_ids.codes, config.model_dump(mode="json"), parent)
        return Mixture({"new": self.new, "replayed": self.replayed}, passes, content)


def refresh(
    data: RefreshData,
    config: RefreshConfig,
    *,
    parent: Path,
    out: Path,
    validate: Callable[[LanguageModel], float] | None,
    seed: int,
    work: Path | None = None,
    tracker: Tracker | None = None,
) -> Progress:
    """Train the adapter in `parent` on and write the model to `out`; how the training went.

    Args:
        validate: score of a plain model in evaluation mode, by which the epoch is chosen, the parent's weights being
            epoch 0; the last epoch is kept where it is None.
        work: folder for checkpoints; a killed run given the same folder continues and ends with the same weights.

    Raises:
        ArtifactError: a file of the parent is missing or damaged.
        ModelError: the pretrained backbone cannot be loaded any more.
    """
    language_model = _loaded(parent, data, epochs=config.epochs)
    trainings = Trainings(
        data.mixture(config, fingerprint(parent)),
        language_model,
        data.semantic_ids,
        seed=seed,
        work=work,
        tracker=tracker,
    )

    def score(adapted: object) -> float:
        assert validate is not None
        return validate(merged_copy(language_model, adapted))

    progress = trainings.run(language_model.model, config, "refresh", None if validate is None else score)
    if (parent / "backbone").exists():
        link_tree(parent / "backbone", out / "backbone")
    save_adapter(out, language_model.model, language_model)
    return progress


def _loaded(parent: Path, data: RefreshData, *, epochs: int) -> LanguageModel:
    """The parent with its adapter to train on; items that are predicted from now on have rows of their own too."""
    loaded = load_adapted(parent, trainable=True)
    if loaded.items is None:
        return loaded
    known = np.zeros(len(loaded.items), np.bool_)
    if epochs:
        known[[item for example in data.new for item in example.targets]] = True
    return loaded._replace(items=loaded.items.continued(known, dropped=loaded.config.item_dropout))
