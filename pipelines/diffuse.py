"""The diffuse stage: the diffusion preference module learns to imagine the next item's latent.

Reads 01_dataset, 03_tokens and 05_language_model; writes the averaged denoiser (`preference.*`), the plain heads that
it is measured against (`regression.*`, `cross_entropy.*`), `validation_samples.parquet` and, where `diffuse.joint` is
set, the adapter that serves both rankings (see `recsys.diffusion.joint`).
"""

from __future__ import annotations

from typing import NamedTuple

from pipelines.config import RunConfig, training_seed
from recsys.artifacts import StageRun
from recsys.data.categories import item_categories
from recsys.data.dataset import Dataset
from recsys.data.histories import excludes_seen, interaction_counts, queries, training_histories
from recsys.diffusion.heads import KINDS, fit_head
from recsys.diffusion.joint import JointFolders, JointPreference, fit_joint
from recsys.diffusion.joint_batches import JointData
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.training import Run, fit_preference
from recsys.llm.conditions import Conditions, query_conditions, training_conditions
from recsys.llm.continuous import ContinuousTexts
from recsys.llm.storage import load_language_model
from recsys.ranking.validation import HeadValidator, ValidationUsers, save_samples
from recsys.tables import VALIDATION, Catalog, FloatArray, Histories, ItemVectors, SemanticIds
from recsys.tokenization.continuous import ContinuousTokenizer
from recsys.tracking import Tracker


class _Trained(NamedTuple):
    """A head, and the language model's states that it is conditioned on: in training, and of validation users."""

    preference: PreferenceModel
    training: Conditions
    validation: FloatArray


class _Data(NamedTuple):
    """What both ways of training learn from, and who they are judged by."""

    catalog: Catalog
    histories: Histories
    semantic_ids: SemanticIds
    latents: FloatArray
    validator: HeadValidator


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    data = _data(config, run)
    validator = data.validator
    trained = (_joint if config.diffuse.joint else _frozen)(config, run, tracker, data)
    trained.preference.save(run.out)
    save_samples(validator.index_samples(trained.preference, trained.validation), run.out)
    scores = {"preference": validator.preference(trained.preference, trained.validation)}
    states, targets = trained.training.states.numpy(), trained.training.targets.numpy()
    for kind in KINDS:
        head = fit_head(
            kind,
            states,
            targets,
            data.latents,
            config.diffuse,
            run=Run(kind, training_seed(config, config.diffuse), run.work / kind, tracker),
            validate=lambda found: validator.head(found, trained.validation),
        )
        head.save(run.out)
        scores[kind] = validator.head(head, trained.validation)
    run.note(**{f"ndcg@10_{name}": score for name, score in scores.items()})


def _data(config: RunConfig, run: StageRun) -> _Data:
    dataset = Dataset.load(run.read("prepare"))
    ids = SemanticIds.load(run.read("tokenize/discrete") / "semantic_ids.parquet")
    latents = ItemVectors.load(run.read("tokenize/continuous") / "latents.parquet").vectors
    histories = training_histories(dataset.interactions, dataset.catalog)
    users = ValidationUsers.sample(
        queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=config.prepare.max_history),
        users=config.diffuse.validation_users,
        seed=config.seed,
        exclude_seen=excludes_seen(config.recommend.exclude_seen, dataset.interactions),
    )
    counts = interaction_counts(histories.items, len(dataset.catalog))
    validator = HeadValidator(users, latents, counts, config.seed)
    return _Data(dataset.catalog, histories, ids, latents, validator)


def _frozen(config: RunConfig, run: StageRun, tracker: Tracker, data: _Data) -> _Trained:
    """On the states of the finished language model, computed once."""
    language_model = load_language_model(run.read("finetune"))
    ids, validator = data.semantic_ids, data.validator
    training = training_conditions(
        language_model, ids, data.histories, window=config.prepare.max_history, tracker=tracker
    )
    asked = validator.users.queries.histories
    states: FloatArray = query_conditions(language_model, ids, asked, window=config.prepare.max_history).numpy()
    preference = fit_preference(
        training.states.numpy(),
        training.targets.numpy(),
        data.latents,
        config.diffuse,
        seed=training_seed(config, config.diffuse),
        validate=lambda model: validator.preference(model, states),
        work=run.work / "preference",
        tracker=tracker,
    )
    return _Trained(preference, training, states)


def _joint(config: RunConfig, run: StageRun, tracker: Tracker, data: _Data) -> _Trained:
    """Together with the language model's adapter; the plain heads then learn on the states of the result."""
    validator, learned = data.validator, _joint_data(config, run, data)
    asked, window = validator.users.queries.histories, config.prepare.max_history

    def states(joint: JointPreference) -> FloatArray:
        found: FloatArray = joint.query_conditions(asked, window=window).numpy()
        return found

    joint = fit_joint(
        learned,
        config.diffuse,
        folders=JointFolders(run.read("finetune"), run.out, run.work / "joint"),
        seed=training_seed(config, config.diffuse),
        validate=lambda present: validator.preference(present.preference, states(present)),
        tracker=tracker,
    )
    return _Trained(
        joint.preference,
        joint.training_conditions(data.histories, window=learned.window, tracker=tracker),
        states(joint),
    )


def _joint_data(config: RunConfig, run: StageRun, data: _Data) -> JointData:
    """What prompts and answers are made of, as the configuration says."""
    catalog, settings = data.catalog, config.diffuse
    answers = {"title": catalog.titles(), "category": item_categories(catalog), "none": None}[settings.answers]
    return JointData(
        data.semantic_ids,
        data.histories,
        config.prepare.max_history,
        data.latents,
        ContinuousTokenizer.load(run.read("tokenize/continuous")).config.tokens,
        ContinuousTexts(
            titles=catalog.titles() if settings.titles else None,
            answers=None if answers is None else [answer or "" for answer in answers],
        ),
    )
