"""The finetune stage of a refreshed run: the parent's LoRA adapter, trained on.

Reads 01_dataset, 03_tokens, and the parent's 01_dataset and 05_language_model; writes the model (see
`recsys.llm.storage`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipelines.config import RunConfig, training_seed
from pipelines.refresh.groups import validation_groups
from pipelines.refresh.parent import parent_folder
from recsys.artifacts import StageRun
from recsys.data.dataset import Dataset
from recsys.data.extension import later_only
from recsys.data.histories import training_histories
from recsys.data.policy import ServedPolicy
from recsys.instructions.examples import Example
from recsys.instructions.source import TaskSource
from recsys.instructions.tasks import sequential
from recsys.llm.refresh import RefreshData, refresh
from recsys.llm.storage import LanguageModel
from recsys.ranking.validation import LanguageModelValidator, ValidationUsers
from recsys.tables import Interactions, SemanticIds
from recsys.tracking import Tracker

logger = logging.getLogger(__name__)

Validator = Callable[[LanguageModel], float]


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    dataset = Dataset.load(run.read("prepare"))
    parent = Dataset.load(parent_folder(config, "prepare"))
    data = RefreshData(
        _examples(config, dataset, later_only(dataset)),
        _examples(config, parent, parent.interactions),
        SemanticIds.load(run.read("tokenize/discrete") / "semantic_ids.parquet"),
    )
    run.note(new_examples=len(data.new))
    done = refresh(
        data,
        config.refresh,
        parent=parent_folder(config, "finetune"),
        out=run.out,
        validate=_validator(config, run, dataset, data.semantic_ids),
        seed=training_seed(config, config.finetune),
        work=run.work,
        tracker=tracker,
    )
    run.note(best_epoch=done.best_epoch, epochs=done.epoch)


def _examples(config: RunConfig, dataset: Dataset, interactions: Interactions) -> list[Example]:
    """The sequential task on the interactions' training histories."""
    histories = training_histories(interactions, dataset.catalog)
    return list(sequential(TaskSource(dataset.catalog, histories, config.prepare.max_history), config.instruct))


def _validator(config: RunConfig, run: StageRun, dataset: Dataset, semantic_ids: SemanticIds) -> Validator | None:
    """NDCG@10 of both groups of users, in the shares of new and replayed examples; None without users of the first."""
    groups = validation_groups(
        dataset, max_history=config.prepare.max_history, limit=config.finetune.validation_users, seed=config.seed
    )
    run.note(validation_users={"epochs": sum(map(len, groups)), "with_new": len(groups.new)})
    if not len(groups.new):
        logger.warning("no validation users with new interactions: the last epoch is kept")
        return None
    served = ServedPolicy.choose(
        config.recommend.exclude_seen, dataset.interactions, repeat_share=config.recommend.repeat_share
    )
    replay = config.refresh.replay if len(groups.old) else 0.0
    new, old = (LanguageModelValidator(ValidationUsers(users, served.exclude_seen), semantic_ids) for users in groups)
    return lambda model: (1 - replay) * new(model) + (replay * old(model) if replay else 0.0)
