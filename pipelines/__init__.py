"""`STAGES`, the single definition of the flow; the command line, runner, README and tests derive from it.

A stage reads folders of earlier stages and writes its own. Its module `pipelines.NAME` is imported when it runs. A run
has one route or both (`tokenize.kind`): `stages_of` returns its stages.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

DISCRETE, CONTINUOUS = "discrete", "continuous"
ROUTES = (DISCRETE, CONTINUOUS)
_OF_TRAINING = (
    *("epochs", "learning_rate", "weight_decay", "warmup_ratio", "batch_tokens", "accumulation", "max_grad_norm"),
    *("validate_every", "replay"),
)
_OF_HISTORIES = ("prepare.max_history", "recommend.exclude_seen", "recommend.repeat_share")


class Stage(NamedTuple):
    """One step of the pipeline.

    `reads` names earlier stages, or subfolders of their output ("stage/subfolder"). `version` is incremented by hand
    when the code produces different results. `settings` are the dotted configuration keys (sections or single fields,
    besides the seed) that the stage reads; `sources` are those that may name a file or folder, which is fingerprinted
    by its contents instead of its name. A stage belongs to runs that have all of its `routes`; a subfolder named after
    a route is read only if the run has that route. Of `seeds`, dotted keys, the first that is set is the stage's seed;
    none are named where nothing is random. `module` (of this package) runs it, where it is not `pipelines.NAME`.
    """

    name: str
    folder: str
    reads: tuple[str, ...]
    version: int
    settings: tuple[str, ...]
    help: str
    sources: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ("seed",)
    module: str = ""


STAGES = (
    Stage(
        "prepare",
        "01_dataset",
        (),
        2,
        ("prepare",),
        "Import interactions and items, clean them, split them.",
        ("prepare.source", "prepare.items"),
        seeds=("prepare.synthetic.seed", "seed"),
    ),
    Stage(
        "embed",
        "02_embeddings",
        ("prepare",),
        4,
        ("embed", "prepare.max_history", "recommend.exclude_seen", "recommend.repeat_share"),
        "Encode items as vectors: from their texts, and from interactions (SASRec).",
        ("embed.vectors", "embed.model"),
    ),
    Stage(
        "tokenize",
        "03_tokens",
        ("prepare", "embed"),
        3,
        ("tokenize",),
        "Quantize the vectors to unique semantic ids, and encode them as continuous latents.",
    ),
    Stage(
        "instruct",
        "04_instructions",
        ("prepare",),
        1,
        ("instruct", "prepare.max_history"),
        "Write the instruction-tuning examples for the language model.",
        routes=(DISCRETE,),
        seeds=(),
    ),
    Stage(
        "finetune",
        "05_language_model",
        ("prepare", "tokenize/discrete", "instruct"),
        5,
        ("finetune", "instruct", "prepare.max_history", "recommend.exclude_seen", "recommend.repeat_share"),
        "Train the language model and its LoRA adapter on the examples.",
        ("finetune.pretrained",),
        routes=(DISCRETE,),
    ),
    Stage(
        "diffuse",
        "06_preference",
        ("prepare", "tokenize/discrete", "tokenize/continuous", "finetune"),
        4,
        ("diffuse", "prepare.max_history", "recommend.exclude_seen", "recommend.repeat_share"),
        "Train the diffusion preference module on the language model's hidden states.",
        routes=(DISCRETE, CONTINUOUS),
    ),
    Stage(
        "index",
        "07_index",
        ("tokenize/continuous", "diffuse"),
        3,
        ("index",),
        "Build the FAISS index over item latents and tune it to a recall target.",
        routes=(CONTINUOUS,),
    ),
    Stage(
        "recommend",
        "08_recommendations",
        ("prepare", "embed", "tokenize/discrete", "tokenize/continuous", "finetune", "diffuse", "index"),
        10,
        ("recommend", "prepare.max_history"),
        "Rank items for every user: baselines, both routes, and their fusion.",
    ),
    Stage(
        "evaluate",
        "09_report",
        ("prepare", "embed", "tokenize", "finetune", "diffuse", "recommend"),
        4,
        ("evaluate",),
        "Evaluate the rankings against held-out interactions, and write the report.",
    ),
)

STAGE_NAMES = tuple(stage.name for stage in STAGES)
COMBINE = Stage(
    "combine",
    "10_combined_report",
    (),
    1,
    ("evaluate",),
    "Evaluate the rankings of all seeds together, and write one report.",
)
"""Not of one run, but of a directory that has the runs of several seeds (`recsys run --seeds`)."""

REFRESH = Stage(
    "refresh",
    "11_refresh_report",
    ("prepare", "tokenize/discrete", "finetune"),
    1,
    (
        *("refresh.report_users", "parent.fingerprint", "prepare.max_history"),
        *("recommend.num_beams", "recommend.batch_size", "evaluate.num_resamples", "evaluate.confidence"),
    ),
    "Compare the language model before and after, on users with new interactions and on the parent's.",
    module="refresh.report",
)
"""Only of a run that continues another one (`recsys refresh`)."""

FOLDERS = {stage.name: stage.folder for stage in (*STAGES, COMBINE, REFRESH)}


def stages_of(routes: Collection[str]) -> tuple[Stage, ...]:
    """The stages of a run with the given routes, in flow order, each reading only folders that such a run has."""
    present = [stage for stage in STAGES if set(stage.routes) <= set(routes)]
    names = {stage.name for stage in present}
    return tuple(
        stage._replace(reads=tuple(name for name in stage.reads if _exists(name, names, routes))) for stage in present
    )


def refreshed(stages: Collection[Stage]) -> tuple[Stage, ...]:
    """The same stages of a run that continues a parent run.

    Items keep the parent's vectors, tokens and texts; the dataset is the parent's and new interactions, the language
    model is the parent's, trained on, and compared with it. All other stages are as ever.
    """
    parent = "parent.fingerprint"
    made = {
        name: {"reads": (), "version": 1, "settings": (parent,), "sources": (), "seeds": (), "module": "refresh.link"}
        for name in ("embed", "tokenize", "instruct")
    }
    own: dict[str, dict[str, Any]] = {
        **made,
        "prepare": {
            "version": 1,
            "settings": ("prepare", "refresh.held_out", parent),
            "seeds": ("seed",),
            "module": "refresh.prepare",
            "help": "Add the new interactions to the parent's dataset, and split them.",
        },
        "finetune": {
            "reads": ("prepare", "tokenize/discrete"),
            "version": 1,
            "settings": ("finetune", *(f"refresh.{key}" for key in _OF_TRAINING), parent, *_OF_HISTORIES),
            "module": "refresh.finetune",
            "help": "Continue the parent's LoRA adapter on the new interactions.",
        },
    }
    found: list[Stage] = []
    for stage in stages:
        found.append(stage._replace(**own.get(stage.name, {})))
        found += [REFRESH] if stage.name == "finetune" else []
    return tuple(found)


def _exists(name: str, stages: Collection[str], routes: Collection[str]) -> bool:
    stage, _, part = name.partition("/")
    return stage in stages and (part not in ROUTES or part in routes)
