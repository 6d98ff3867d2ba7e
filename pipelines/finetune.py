"""The finetune stage: the language model learns to write semantic ids.

Reads 01_dataset, 03_tokens and 04_instructions; writes the model (see `recsys.llm.storage`).
"""

from __future__ import annotations

from pipelines.config import RunConfig, training_seed
from recsys.artifacts import StageRun
from recsys.data.dataset import Dataset
from recsys.data.histories import queries
from recsys.data.policy import ServedPolicy
from recsys.embeddings.text import item_texts
from recsys.instructions.examples import load_examples
from recsys.llm.finetuning import FinetuneData, finetune
from recsys.ranking.validation import LanguageModelValidator, ValidationUsers
from recsys.tables import VALIDATION, SemanticIds
from recsys.tokenization.registry import load_tokenizer
from recsys.tracking import Tracker


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    dataset = Dataset.load(run.read("prepare"))
    tokens = run.read("tokenize/discrete")
    data = FinetuneData(
        examples=load_examples(run.read("instruct") / "instructions.parquet", dataset.catalog),
        texts=item_texts(dataset.catalog),
        semantic_ids=SemanticIds.load(tokens / "semantic_ids.parquet"),
        codebooks=load_tokenizer(tokens).codebooks,
        instruct=config.instruct,
    )
    users = ValidationUsers.sample(
        queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=config.prepare.max_history),
        users=config.finetune.validation_users,
        seed=config.seed,
        exclude_seen=ServedPolicy.choose(
            config.recommend.exclude_seen, dataset.interactions, repeat_share=config.recommend.repeat_share
        ).exclude_seen,
    )
    run.note(validation_users={"epochs": len(users.queries)})
    done = finetune(
        data,
        config.finetune,
        out=run.out,
        validate=LanguageModelValidator(users, data.semantic_ids),
        seed=training_seed(config, config.finetune),
        work=run.work,
        tracker=tracker,
    )
    run.note(**{f"ndcg@10_{name}": score for name, score in done._asdict().items() if score is not None})
