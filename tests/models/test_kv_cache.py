"""Caches with room ahead hold what those of `transformers` hold."""

from types import SimpleNamespace

import pytest
import torch
from doubles import language_model, ragged_texts
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from tril_gym.models import kv_cache
from tril_gym.models.kv_cache import PreallocatedLayer, PromptLayer, preallocated_cache, preallocated_pair, select_rows


def states(generator, texts, columns, width):
    return torch.randn((texts, 2, columns, width), generator=generator)


@pytest.mark.parametrize("step", [1, 3, 64])
def test_a_layer_holds_what_a_dynamic_one_holds(step, monkeypatch):
    monkeypatch.setattr(kv_cache, "STEP", step)
    generator, ours, expected = torch.Generator().manual_seed(0), PreallocatedLayer(), DynamicLayer()
    texts = 6
    for columns, kept in (*((5, None), (1, [0, 2, 5, 1]), (1, [3, 1, 2]), (1, None), (2, [2]), (1, None), (1, None)),):
        keys, values = states(generator, texts, columns, 4), states(generator, texts, columns, 3)  # of unequal width
        for one, other in zip(ours.update(keys, values), expected.update(keys, values), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert ours.get_seq_length() == expected.get_seq_length()
        assert ours.get_mask_sizes(1) == expected.get_mask_sizes(1)
        if kept is not None:
            texts = len(kept)
            ours.batch_select_indices(torch.tensor(kept))
            expected.batch_select_indices(torch.tensor(kept))
            torch.testing.assert_close(ours.keys, expected.keys, rtol=0, atol=0)
            torch.testing.assert_close(ours.values, expected.values, rtol=0, atol=0)


def test_memory_is_allocated_seldom():
    layer, generator, places = PreallocatedLayer(), torch.Generator().manual_seed(0), []
    for _ in range(3 * kv_cache.STEP):
        layer.update(states(generator, 2, 1, 4), states(generator, 2, 1, 4))
        places.append(layer.keys.data_ptr())
    assert len(set(places)) <= 4
    dynamic = DynamicLayer()
    dynamic.update(states(generator, 2, 1, 4), states(generator, 2, 1, 4))
    before = dynamic.keys
    dynamic.update(states(generator, 2, 1, 4), states(generator, 2, 1, 4))
    assert dynamic.keys.data_ptr() != before.data_ptr()  # which copies for every token


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_a_decoder_says_the_same_with_either(family):
    model, texts = language_model(family).eval(), ragged_texts()
    ids = texts.tokens[:, :6]
    caches = [preallocated_cache(model.config), DynamicCache(config=model.config)]
    for columns in (slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6)):
        ours, expected = (model(input_ids=ids[:, columns], past_key_values=cache).logits for cache in caches)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_layers_of_another_kind_stay():
    sliding = language_model("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1).config
    kinds = [type(layer) for layer in preallocated_cache(sliding).layers]
    assert kinds == [PreallocatedLayer, DynamicSlidingWindowLayer]
    pair = preallocated_pair(language_model("t5").config)
    assert [type(layer) for layer in pair.self_attention_cache.layers] == [PreallocatedLayer] * 2
    assert [type(layer) for layer in pair.cross_attention_cache.layers] == [PromptLayer] * 2


def test_encoder_states_are_made_contiguous_once():
    B, L, H, D = 3, 5, 2, 4  # noqa: N806
    keys, values = (torch.randn((B, L, H, D)).transpose(1, 2) for _ in range(2))  # as a model gives them
    ours, growing = PromptLayer(), PreallocatedLayer()
    for layer in (ours, growing):
        layer.update(keys, values)
        torch.testing.assert_close((layer.keys, layer.values), (keys, values), rtol=0, atol=0)

    def read(layer):
        return layer.keys.reshape(B * H, L, D).data_ptr()

    assert read(ours) == ours.keys.data_ptr()
    assert read(growing) != growing.keys.data_ptr()  # a copy for every token


@pytest.mark.parametrize("early", [True, False])  # before memory was set aside, or after
def test_dropping_the_last_rows_copies_nothing(early):
    generator, layer = torch.Generator().manual_seed(0), PreallocatedLayer()
    expected = states(generator, 4, 5, 3)
    layer.update(expected, -expected)
    if not early:
        more = states(generator, 4, 1, 3)
        layer.update(more, -more)
        expected = torch.cat([expected, more], dim=2)
    before = layer.keys.data_ptr()
    select_rows(SimpleNamespace(layers=[layer]), slice(3), 0)
    assert layer.keys.data_ptr() == before, "it was copied"
    torch.testing.assert_close((layer.keys, layer.values), (expected[:3], -expected[:3]), rtol=0, atol=0)


@pytest.mark.parametrize("rows", [torch.tensor([2, 0]), slice(2)])
def test_rows_of_other_layers_are_selected(rows):
    layer, given = DynamicSlidingWindowLayer(sliding_window=4), states(torch.Generator().manual_seed(0), 3, 3, 2)
    layer.update(given, -given)
    select_rows(SimpleNamespace(layers=[layer]), rows, 0)
    torch.testing.assert_close((layer.keys, layer.values), (given[rows], -given[rows]), rtol=0, atol=0)


@pytest.mark.parametrize("rows", [torch.tensor([0, 3]), slice(2)])
@pytest.mark.parametrize("early", [True, False])  # before memory was set aside, or after
def test_leading_columns_are_dropped(early, rows):
    generator, layer = torch.Generator().manual_seed(0), PreallocatedLayer()
    given = states(generator, 4, 5, 3)
    before = given.clone()
    layer.update(given, -given)
    expected = given
    if not early:
        more = states(generator, 4, 1, 3)
        layer.update(more, -more)
        expected = torch.cat([expected, more], dim=2)
    select_rows(SimpleNamespace(layers=[layer]), rows, 2)
    expected = expected[rows][:, :, 2:]
    for _ in range(2 * kv_cache.STEP):  # until memory is allocated again
        more = states(generator, 2, 1, 3)
        keys, values = layer.update(more, -more)
        expected = torch.cat([expected, more], dim=2)
        torch.testing.assert_close(keys, expected, rtol=0, atol=0)
        torch.testing.assert_close(values, -expected, rtol=0, atol=0)
    # What a model has given is its own: it may be one tensor for both.
    torch.testing.assert_close(given, before, rtol=0, atol=0)


def test_layers_are_joined():
    generator, joined, parts = torch.Generator().manual_seed(0), PreallocatedLayer(), []
    for rows, columns in (([2, 0], 3), ([1], 5)):
        layer = PreallocatedLayer()
        layer.update(states(generator, len(rows), columns, 3), states(generator, len(rows), columns, 4))
        parts.append((torch.tensor(rows), layer))
    joined.join(parts)
    assert joined.keys.shape == (3, 2, 5, 3)
    for row, part, number, gap in ((2, 0, 0, 2), (0, 0, 1, 2), (1, 1, 0, 0)):
        assert not joined.keys[row, :, :gap].any()
        assert not joined.values[row, :, :gap].any()
        torch.testing.assert_close(joined.keys[row, :, gap:], parts[part][1].keys[number], rtol=0, atol=0)
        torch.testing.assert_close(joined.values[row, :, gap:], parts[part][1].values[number], rtol=0, atol=0)
    more = states(generator, 3, 1, 3)
    torch.testing.assert_close(joined.update(more, states(generator, 3, 1, 4))[0][:, :, 5:], more, rtol=0, atol=0)
