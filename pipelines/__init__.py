"""`STAGES`, the one ordered statement of the flow; command line, runner, README and tests derive from it.

A stage reads folders of earlier stages and writes its own. Its module `pipelines.NAME` is imported when it runs.
"""

from typing import NamedTuple


class Stage(NamedTuple):
    """One step of the flow.

    `reads` names earlier stages, or parts of what they wrote ("stage/part": a folder inside theirs). `version` is
    raised by hand when the code gives other results. `settings` are the dotted configuration keys (whole sections or
    single fields, besides `seed`) that the stage looks at; `sources` are those among them that may name a file or
    folder, whose contents then count instead of the name.
    """

    name: str
    folder: str
    reads: tuple[str, ...]
    version: int
    settings: tuple[str, ...]
    help: str
    sources: tuple[str, ...] = ()


STAGES = (
    Stage(
        "prepare",
        "01_dataset",
        (),
        1,
        ("prepare",),
        "Import interactions and items, clean them, split them.",
        ("prepare.source",),
    ),
    Stage(
        "embed",
        "02_embeddings",
        ("prepare",),
        1,
        ("embed", "prepare.history", "recommend.exclude_seen"),
        "Turn items into vectors: from their texts, and from behaviour (SASRec).",
        ("embed.vectors", "embed.model"),
    ),
    Stage(
        "tokenize",
        "03_tokens",
        ("prepare", "embed"),
        1,
        ("tokenize",),
        "Quantize the vectors into unique semantic ids.",
    ),
    Stage(
        "instruct",
        "04_instructions",
        ("prepare",),
        1,
        ("instruct",),
        "Write the examples that teach the language model the ids.",
    ),
    Stage(
        "finetune",
        "05_language_model",
        ("prepare", "tokenize/discrete", "instruct"),
        1,
        ("finetune", "instruct", "prepare.history", "recommend.exclude_seen"),
        "Train the language model and its LoRA adapter on the examples.",
        ("finetune.pretrained",),
    ),
    Stage(
        "recommend",
        "08_recommendations",
        ("prepare", "embed", "tokenize/discrete", "finetune"),
        1,
        ("recommend", "prepare.history", "embed.collaborative"),
        "Rank items for every user, with the baselines and the language model.",
    ),
    Stage(
        "evaluate",
        "09_report",
        ("prepare", "embed", "tokenize", "finetune", "recommend"),
        1,
        ("evaluate",),
        "Measure the rankings against what users did next, and write the report.",
    ),
)

STAGE_NAMES = tuple(stage.name for stage in STAGES)
FOLDERS = {stage.name: stage.folder for stage in STAGES}
