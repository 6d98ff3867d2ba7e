"""On a CUDA device the same comes out as on the CPU; run with `pytest -m gpu` where there is one."""

import copy
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.baselines.config import SasrecConfig
from recsys.baselines.sasrec_training import fit_sasrec
from recsys.decoding.beam import search_tree
from recsys.decoding.tree import Tree
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.training import fit_preference
from recsys.ranking.recommender import Request
from recsys.retrieval.config import IndexConfig
from recsys.retrieval.index import ItemIndex
from recsys.tables import Histories
from recsys.tokenization.trie import Trie
from recsys.training.softmax import softmax_loss
from tests.decoding.backbones import BASE, SUPPORTED, backbone, pad, random_ids, random_prompts
from tests.diffusion.conftest import Problem, small_config
from tests.diffusion.conftest import problem as problem
from tests.pipelines.finished import finished
from tests.ranking.fakes import NUM_ITEMS, cycle, finetuned, generative_recommender, ids

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("name", list(SUPPORTED))
def test_beam_search_finds_the_same_items(name: str) -> None:
    generator = np.random.default_rng(0)
    codes = random_ids(generator, num_items=40, num_levels=3, num_codes=8)
    prompts, lengths = pad(random_prompts(generator, [3, 11, 7]))
    trie, allowed = Trie.build(codes, 8), torch.from_numpy(generator.random((3, len(codes))) < 0.8)
    there = copy.deepcopy(backbone(name)).cuda()
    here = search_tree(Tree(backbone(name), prompts, lengths), trie=trie, base=BASE, beams=10, allowed=allowed)
    tree = Tree(there, prompts.cuda(), lengths.cuda())
    found = search_tree(tree, trie=trie.to("cuda"), base=BASE, beams=10, allowed=allowed.cuda())
    torch.testing.assert_close(found.scores.cpu(), here.scores, atol=1e-3, rtol=1e-3)
    assert (found.items.cpu() == here.items).float().mean() > 0.9, "near ties may change places"


def test_the_language_model_learns_the_circle(tmp_path: Path) -> None:
    dataset = cycle()
    folder = finetuned(dataset, ids(dataset), folder=tmp_path)
    recommender = generative_recommender(dataset, ids(dataset), folder)
    for start in range(NUM_ITEMS):
        history = tuple(f"item {(start + step) % NUM_ITEMS}" for step in range(4))
        assert recommender.recommend([Request(history, 1)])[0].items[0].item_id == f"item {(start + 4) % NUM_ITEMS}"


def test_samples_are_those_of_the_cpu(problem: Problem) -> None:
    model = fit_preference(problem.conditions, problem.targets, problem.latents, small_config(), seed=0)
    assert model.denoiser.null_condition.device.type == "cuda"
    here = PreferenceModel(copy.deepcopy(model.denoiser).cpu(), model.config)
    drawn, expected = (m.sample(problem.users, range(4), seed=1) for m in (model, here))
    np.testing.assert_allclose(drawn, expected, atol=1e-3)


def test_a_preference_training_continues_where_it_was_stopped(problem: Problem, tmp_path: Path) -> None:
    arguments, config = (problem.conditions, problem.targets, problem.latents), small_config(validate_every=1)
    validations = iter((0.0, KeyboardInterrupt()))

    def stop(_: PreferenceModel) -> float:
        now = next(validations)
        if isinstance(now, BaseException):
            raise now
        return now

    with pytest.raises(KeyboardInterrupt):
        fit_preference(*arguments, config, seed=0, validate=stop, work=tmp_path)
    rising = count(1)
    resumed, whole = (
        fit_preference(*arguments, config, seed=0, validate=lambda _: next(rising), work=work)
        for work in (tmp_path, None)
    )
    torch.testing.assert_close(resumed.denoiser.state_dict(), whole.denoiser.state_dict(), atol=1e-4, rtol=1e-3)


def test_the_softmax_loss_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 16, generator=generator).cuda().requires_grad_()
    weight = torch.randn(50, 16, generator=generator).cuda().requires_grad_()
    targets = torch.randint(50, (300,), generator=generator).cuda()
    softmax_loss(hidden, weight, targets).backward()
    found = [hidden.grad, weight.grad]
    hidden.grad = weight.grad = None
    torch.nn.functional.cross_entropy(hidden @ weight.T, targets).backward()
    torch.testing.assert_close(found, [hidden.grad, weight.grad], atol=1e-5, rtol=1e-4)


def test_sasrec_learns_there_and_ranks_anywhere() -> None:
    steps = [np.arange(start, start + 8) % 10 for start in range(10)] * 4
    histories = Histories.from_lists([f"u{user}" for user in range(len(steps))], steps)
    config = SasrecConfig(hidden_size=32, epochs=60, max_length=8, dropout=0.0, learning_rate=5e-3)
    model = fit_sasrec(histories, 10, config, seed=0)
    top = model.rank(histories.take(np.arange(10)), k=1)
    assert top.items[:, 0].tolist() == [(start + 8) % 10 for start in range(10)]


def test_an_index_on_the_device_finds_what_the_cpu_finds() -> None:
    faiss = pytest.importorskip("faiss")
    if not hasattr(faiss, "StandardGpuResources"):
        pytest.skip("this build of FAISS is for CPUs")
    generator = np.random.default_rng(0)
    vectors, queries = generator.normal(size=(2000, 16)), generator.normal(size=(20, 16))
    index = ItemIndex.build(vectors, config=IndexConfig(kind="flat"))
    squares = np.square(queries[:, None] - vectors).sum(axis=2)
    np.testing.assert_array_equal(index.search(queries, 10).labels, squares.argsort(axis=1)[:, :10])


def test_a_whole_run_of_both_routes_is_reported() -> None:
    with finished() as directory:
        assert (directory.folder("evaluate") / "report.html").stat().st_size > 10_000
