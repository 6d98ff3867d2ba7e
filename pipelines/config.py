"""The whole configuration: the seed and one field a stage, in flow order; recipes and overrides resolve to it here.

Reads a YAML recipe, by name (package `configs`) or by path.
"""

from __future__ import annotations

from recsys.config import Config
from recsys.data.config import PrepareConfig
from recsys.decoding.config import RecommendConfig
from recsys.embeddings.config import EmbedConfig
from recsys.evaluation.config import EvaluateConfig
from recsys.instructions.config import InstructConfig
from recsys.llm.config import FinetuneConfig
from recsys.tokenization.config import TokenizeConfig


class RunConfig(Config):
    """Everything a run can be told. Defaults live in the sections' own models."""

    seed: int = 0
    prepare: PrepareConfig = PrepareConfig()
    embed: EmbedConfig = EmbedConfig()
    tokenize: TokenizeConfig = TokenizeConfig()
    instruct: InstructConfig = InstructConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    recommend: RecommendConfig = RecommendConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
