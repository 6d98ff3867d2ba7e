"""Recipes and overrides are resolved; an error names the key's full path."""

from pathlib import Path

import pytest
import yaml

from pipelines import STAGES
from pipelines.config import RunConfig, dump_yaml, flatten, load_config, recipes, training_seed
from pipelines.settings import validated
from recsys.errors import ConfigError


@pytest.mark.parametrize("name", ["demo", "beauty", "toys", "ml-1m"])
def test_a_recipe_loads_and_starts_with_the_command_that_runs_it(name: str) -> None:
    assert recipes()[name].startswith(f"# recsys run --config {name}")
    assert isinstance(load_config(name), RunConfig)


def test_there_are_no_other_recipes() -> None:
    assert sorted(recipes()) == ["beauty", "demo", "ml-1m", "toys"]


def test_a_training_has_its_own_seed_or_that_of_the_run() -> None:
    config = load_config("demo", ["seed=3", "diffuse.seed=0"])
    assert (training_seed(config, config.finetune), training_seed(config, config.diffuse)) == (3, 0)


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    config = load_config("demo", ["tokenize.num_levels=3", "embed.fields=[title, brand]"])
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert load_config(str(path)) == config


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("tokenize.num_levels=3", "tokenize.num_levels", 3),
        ("embed.sasrec.dropout=0.2", "embed.sasrec.dropout", 0.2),
        ("finetune.training.learning_rate=1e-4", "finetune.training.learning_rate", 1e-4),
        ("finetune.pretrained=some/name", "finetune.pretrained", "some/name"),
        ("embed.collaborative=false", "embed.collaborative", False),
        ("seed=7", "seed", 7),
    ],
)
def test_an_override_is_typed_as_yaml(override: str, key: str, value: object) -> None:
    assert flatten(load_config("demo", [override]).model_dump(mode="json"))[key] == value


def test_sasrec_alone_is_refused_without_collaborative_vectors() -> None:
    load_config("demo", ["embed.collaborative=false", "recommend.fusion.sources=[sasrec, generative]"])
    with pytest.raises(ConfigError, match=r"^recommend.fusion.sources=\[sasrec\] needs embed.collaborative=true"):
        load_config("demo", ["embed.collaborative=false", "recommend.fusion.sources=[sasrec]"])


def test_scores_of_whole_items_alone_need_a_model_that_has_them() -> None:
    alone = "recommend.fusion.sources=[generative-item-scored]"
    load_config("demo", [alone, "finetune.items=sum"])
    with pytest.raises(ConfigError, match=r"needs finetune\.items=sum, got tokens"):
        load_config("demo", [alone, "finetune.items=tokens"])


def test_joint_training_needs_prompts_of_code_tokens() -> None:
    load_config("demo", ["diffuse.joint=true", "finetune.items=tokens"])
    with pytest.raises(ConfigError, match=r"set finetune\.items=tokens, or leave"):
        load_config("demo", ["diffuse.joint=true", "finetune.items=sum"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokenize.num_level=3", "unknown key 'tokenize.num_level'; did you mean 'num_levels'?"),
        ("embed.sasrec.epoch=3", "unknown key 'embed.sasrec.epoch'; did you mean 'epochs'?"),
        ("tokenise.levels=3", "unknown key 'tokenise'; did you mean 'tokenize'?"),
        ("zzz=3", "unknown key 'zzz'; known here: seed, prepare"),
        ("tokenize.num_levels=many", "tokenize.num_levels: got 'many'; input should be a valid integer"),
        ("tokenize.num_levels=0", "tokenize.num_levels: got 0; input should be greater than or equal to 1"),
        ("recommend.exclude_seen=perhaps", "recommend.exclude_seen: got 'perhaps'; input should be 'auto', 'always'"),
        ("tokenize=3", "tokenize: got 3"),
        ("prepare.kind=cvs", "prepare.kind: got 'cvs'; allowed: auto, synthetic, table, movielens, amazon-2014"),
        ("tokenize.quantizer=k-means", "tokenize.quantizer: got 'k-means'; allowed: rq-vae"),
        ("recommend.terms=[sasrek]", "recommend.terms: got 'sasrek'; did you mean 'sasrec'?"),
        ("recommend.terms=[sasrec-with-terms]", "recommend.terms: got 'sasrec-with-terms'"),
        ("index.kind=hsnw", "index.kind: got 'hsnw'; did you mean 'hnsw'? allowed: auto, flat, hnsw"),
        ("seed.deep=3", "seed"),
        ("tokenize.num_levels", "write it as section.key=value"),
        ("tokenize.num_levels=[1", "the value is not valid YAML"),
    ],
)
def test_errors_name_the_full_path_of_a_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("demo", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(RunConfig, {"tokenize": {"num_levels": 0}, "embed": {"dims": 1}})
    assert "tokenize.num_levels" in str(caught.value)
    assert "embed.dims" in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml") as caught:
        load_config(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no recipe 'beuty'") as caught:
        load_config("beuty")
    assert "did you mean 'beauty'?" in str(caught.value)


def test_an_existing_source_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config("beauty", ["prepare.source=mine"]).prepare.source == str(tmp_path / "mine")


def test_every_stage_has_its_section_and_declares_settings_that_exist() -> None:
    known = flatten(RunConfig().model_dump(mode="json"))
    assert ["seed", *(stage.name for stage in STAGES), "refresh", "parent"] == list(RunConfig.model_fields)
    for setting in (setting for stage in STAGES for setting in (*stage.settings, *stage.sources)):
        assert any(f"{key}.".startswith(f"{setting}.") for key in known), setting


def test_recipes_state_only_what_differs_from_the_defaults() -> None:
    defaults = flatten(RunConfig().model_dump(mode="json"))
    for name, text in recipes().items():
        repeated = [k for k, v in flatten(yaml.safe_load(text) or {}).items() if k in defaults and defaults[k] == v]
        assert repeated == [], name
