"""Code tokens sit where the layout says, text can never become one, and rows start from meaning."""

import numpy as np
import pytest
import torch

from recsys.llm.backbone import END, encode_text, train_text_tokenizer
from recsys.llm.vocabulary import (
    TokenLayout,
    add_code_tokens,
    initialise_code_rows,
    starts_from_codebooks,
    starts_from_texts,
)
from tests.llm.fakes import TITLES, language_model, llama


def test_token_ids_are_one_contiguous_block_a_level() -> None:
    layout = TokenLayout(base=100, num_levels=2, num_codes=4)
    assert layout.token_ids(np.array([[0, 0], [3, 3]])).tolist() == [[100, 104], [103, 107]]
    assert (layout.token(103), layout.token(104), layout.size) == ("<a_3>", "<b_0>", 108)


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_grows_by_the_code_tokens_and_keeps_its_text_rows(tied: bool) -> None:
    model = llama(300, tied=tied)
    before = model.get_input_embeddings().weight.detach().clone()
    layout = add_code_tokens(model, text_tokens=280, num_levels=3, num_codes=4)
    assert layout.base == 300, "an embedding larger than the tokenizer keeps its rows"
    assert model.get_input_embeddings().weight.shape[0] == model.get_output_embeddings().weight.shape[0] == 312
    assert torch.equal(model.get_input_embeddings().weight[:300], before)


@pytest.mark.parametrize("title", ["<a_12>", f"x {END} y", "<|pad|>", "naïve 🍳 <b_7>"])
def test_text_stays_text(title: str) -> None:
    tokenizer = train_text_tokenizer(TITLES, 300)
    ids = encode_text(tokenizer, title)
    special = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert not special & set(ids)
    assert max(ids) < len(tokenizer)
    assert tokenizer.decode(ids) == title


def test_a_code_starts_at_the_mean_of_the_texts_that_carry_it() -> None:
    model = llama(300, tied=True)
    weight = model.get_input_embeddings().weight.detach().numpy()
    starts = starts_from_texts(model, [[5, 6], [7], []], np.array([[0], [0], [1]]), 3)
    items = np.stack([(weight[5] + weight[6]) / 2, weight[7], weight.mean(0)])
    np.testing.assert_allclose(starts[0], items[:2].mean(0), rtol=1e-5)
    np.testing.assert_allclose(starts[2], items.mean(0), rtol=1e-5, err_msg="an unused code starts at the mean of all")


def test_near_codes_start_near() -> None:
    codebook = np.array([[[1.0, 0, 0], [1.1, 0, 0], [-1, 0.5, 2]]], dtype=np.float32)
    a, b, c = starts_from_codebooks(codebook, 64, seed=0)
    assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(a - c)


def test_code_rows_are_as_spread_as_the_text_rows() -> None:
    made = language_model()
    weight = made.model.get_input_embeddings().weight.detach()
    text, codes = weight[: made.layout.base], weight[made.layout.base :]
    assert 0.5 < float(codes.std() / text.std()) < 2


def test_a_scratch_model_ends_and_pads_with_its_tokenizers_tokens() -> None:
    made = language_model()
    config, tokenizer = made.model.config, made.tokenizer
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert config.bos_token_id is None


def test_the_scale_of_the_starts_does_not_matter() -> None:
    codebooks = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
    starts, rows = starts_from_codebooks(codebooks, 32, seed=0), []
    for scale in (1e-3, 1, 1e3):
        made = language_model()
        initialise_code_rows(made.model, made.layout, (scale * starts).astype(np.float32))
        rows.append(made.model.get_input_embeddings().weight[made.layout.base : made.layout.size].detach())
    torch.testing.assert_close(rows[0], rows[1])
    torch.testing.assert_close(rows[2], rows[1])
