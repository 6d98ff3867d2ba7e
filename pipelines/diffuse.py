"""The diffuse stage: trains the diffusion head, which samples the next item's latent.

Reads 01_dataset, 03_tokens and 05_language_model; writes the averaged denoiser (`preference.*`), the plain heads that
it is compared with (`regression.*`, `cross_entropy.*`), `validation_samples.parquet` and, where `diffuse.joint` is set,
the adapter that serves both rankings (see `recsys.diffusion.joint`).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pipelines.config import RunConfig, training_seed
from recsys.artifacts import StageRun
from recsys.data.categories import item_categories
from recsys.data.dataset import Dataset
from recsys.data.histories import queries, training_histories
from recsys.data.policy import ServedPolicy
from recsys.diffusion.heads import KINDS, fit_head
from recsys.diffusion.joint import JointPreference, fit_joint
from recsys.diffusion.joint_batches import JointData
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.training import fit_preference
from recsys.llm.conditions import Conditions, QueryConditions, training_conditions
from recsys.llm.continuous import ContinuousTexts
from recsys.llm.storage import load_language_model
from recsys.ranking.validation import HeadValidator, ValidationUsers, save_samples
from recsys.tables import VALIDATION, Catalog, FloatArray, Histories, ItemVectors, SemanticIds
from recsys.tokenization.continuous import ContinuousTokenizer
from recsys.tracking import Tracker
from recsys.training.plan import Run, plateau_notes


class _Trained(NamedTuple):
    """A diffusion head, and the conditions of the training rows and the validation users."""

    preference: PreferenceModel
    training: Conditions
    validation: FloatArray


class _Data(NamedTuple):
    """The training data of both ways of training, and the validation."""

    catalog: Catalog
    histories: Histories
    semantic_ids: SemanticIds
    latents: FloatArray
    validator: HeadValidator


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    data = _data(config, run)
    validator = data.validator
    train = _train_jointly if config.diffuse.joint else _train_on_frozen_model
    trained = train(config, run, tracker, data)
    trained.preference.save(run.out)
    save_samples(validator.index_samples(trained.preference, trained.validation), run.out)
    scores = {"preference": validator.preference(trained.preference, trained.validation)}
    for kind in KINDS:
        head = fit_head(
            kind,
            trained.training.states.numpy(),
            trained.training.targets.numpy(),
            data.latents,
            config.diffuse,
            run=Run(kind, training_seed(config, config.diffuse), run.work / kind, tracker),
            weights=_numpy(trained.training.weights),
            validate=lambda head: validator.head(head, trained.validation),
        )
        head.save(run.out)
        run.note(**plateau_notes(kind, head.progress))
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
        exclude_seen=ServedPolicy.choose(
            config.recommend.exclude_seen, dataset.interactions, repeat_share=config.recommend.repeat_share
        ).exclude_seen,
    )
    run.note(validation_users={"epochs": len(users.queries)})
    validator = HeadValidator(users, latents, config.seed)
    return _Data(dataset.catalog, histories, ids, latents, validator)


def _train_on_frozen_model(config: RunConfig, run: StageRun, tracker: Tracker, data: _Data) -> _Trained:
    """On the conditions of the finetuned language model, computed once."""
    language_model = load_language_model(run.read("finetune"))
    ids, validator = data.semantic_ids, data.validator
    window, users = config.prepare.max_history, validator.users.queries.histories
    training = training_conditions(language_model, ids, data.histories, window=window, tracker=tracker)
    validation: FloatArray = QueryConditions(language_model, ids)(users, window=window).numpy()
    preference = fit_preference(
        training.states.numpy(),
        training.targets.numpy(),
        data.latents,
        config.diffuse,
        seed=training_seed(config, config.diffuse),
        weights=_numpy(training.weights),
        validate=lambda model: validator.preference(model, validation),
        work=run.work / "preference",
        tracker=tracker,
    )
    return _Trained(preference, training, validation)


def _numpy(weights: Tensor | None) -> FloatArray | None:
    return None if weights is None else weights.numpy()


def _train_jointly(config: RunConfig, run: StageRun, tracker: Tracker, data: _Data) -> _Trained:
    """With the language model's adapter; the plain heads are then trained on the conditions of the result."""
    validator, joint_data = data.validator, _joint_data(config, run, data)

    def validation(joint: JointPreference) -> FloatArray:
        conditions = joint.query_conditions(validator.users.queries.histories, window=joint_data.window)
        states: FloatArray = conditions.numpy()
        return states

    joint = fit_joint(
        joint_data,
        config.diffuse,
        finetuned=run.read("finetune"),
        out=run.out,
        seed=training_seed(config, config.diffuse),
        validate=lambda joint: validator.preference(joint.preference, validation(joint)),
        work=run.work / "joint",
        tracker=tracker,
    )
    training = joint.training_conditions(data.histories, window=joint_data.window, tracker=tracker)
    return _Trained(joint.preference, training, validation(joint))


def _joint_data(config: RunConfig, run: StageRun, data: _Data) -> JointData:
    """The training data of joint training, with the texts that the configuration selects."""
    catalog, settings = data.catalog, config.diffuse
    answers = {"title": catalog.titles(), "category": item_categories(catalog), "none": None}[settings.answers]
    return JointData(
        data.semantic_ids,
        data.histories,
        config.prepare.max_history,
        data.latents,
        ContinuousTokenizer.load(run.read("tokenize/continuous")).config.num_tokens,
        ContinuousTexts(
            titles=catalog.titles() if settings.titles else None,
            answers=None if answers is None else [answer or "" for answer in answers],
        ),
    )
