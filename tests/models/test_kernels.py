"""Attention of single queries equals that of `transformers`."""

import models_table
import pytest
import torch
from doubles import language_model, policy_of
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tril_gym.agents import LMPolicy
from tril_gym.models import kernels
from tril_gym.models.kernels import ATTENTION, single_query_attention, use_single_query_attention

B, H, L, D = 3, 4, 7, 8


def inputs(queries=1, key_heads=H, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn((B, H, queries, D), generator=generator).to(dtype)
    # As in a cache: the first columns of a larger tensor.
    key, value = (torch.randn((B, key_heads, L + 5, D), generator=generator).to(dtype)[:, :, :L] for _ in range(2))
    return query, key, value


def masks():
    generator = torch.Generator().manual_seed(1)
    looks = torch.rand((B, 1, 1, L), generator=generator) < 0.6
    looks[..., -1] = True
    return {"none": None, "bool": looks, "added": torch.where(looks, 0.5, -1e9)}


@pytest.mark.parametrize("mask", ["none", "bool", "added"])
@pytest.mark.parametrize("scaling", [None, 1.0, 0.3])
@pytest.mark.parametrize("bias", [False, True])
def test_single_queries_equal_torch(mask, scaling, bias, monkeypatch):
    module = nn.Module()
    more = {"position_bias": torch.randn((1, H, 1, L), generator=torch.Generator().manual_seed(2))} if bias else {}
    given = (module, *inputs(), masks()[mask])
    expected, _ = sdpa_attention_forward(*given, scaling=scaling, **more)
    with monkeypatch.context() as patch:
        patch.setattr(
            torch.nn.functional, "scaled_dot_product_attention", None
        )  # so that torch's kernel cannot be used
        found, _ = single_query_attention(*given, scaling=scaling, **more)
    assert found.shape == expected.shape == (B, 1, H, D)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # The control: another scaling has another result.
    assert (single_query_attention(*given, scaling=0.9, **more)[0] - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (inputs(queries=3), {}),
        (inputs(key_heads=2), {}),
        (inputs(dtype=torch.bfloat16), {}),
        (inputs(), {"dropout": 0.5}),
    ],
    ids=["several queries", "shared keys", "half precision", "dropout"],
)
def test_other_inputs_use_torch(given, settings, monkeypatch):
    calls = []
    module = nn.Module()
    module.num_key_value_groups = H // given[1].shape[1]
    original = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    single_query_attention(module, *given, None, **settings)
    assert calls


class TestModels:
    def test_sdpa_models_use_it(self):
        policy = policy_of("gpt2")
        assert policy.model.config._attn_implementation == ATTENTION
        assert ALL_ATTENTION_FUNCTIONS[ATTENTION] is single_query_attention

    def test_eager_models_do_not_use_it(self):
        model = language_model("gpt2")
        model.set_attn_implementation("eager")
        assert use_single_query_attention(model).config._attn_implementation == "eager"

    def test_family_with_its_own_attention_is_not_changed(self, monkeypatch):
        model = language_model("gpt2")
        monkeypatch.setattr("transformers.models.gpt2.modeling_gpt2.ALL_ATTENTION_FUNCTIONS", {})
        assert use_single_query_attention(model).config._attn_implementation == "sdpa"

    @pytest.mark.parametrize("family", ["deepseek_v32", "glm_moe_dsa", "minimax_m3_vl_text"])
    def test_family_that_masks_by_the_name_of_its_attention_is_not_changed(self, family):
        """Under another name these attend to all tokens, not to the few that their index chooses."""
        model = models_table.tiny_model(family, models_table.families()[family])
        assert use_single_query_attention(model).config._attn_implementation == "sdpa"

    def test_sparse_attention_stays_sparse(self, monkeypatch):
        monkeypatch.setitem(models_table.SETTINGS, "deepseek_v32", models_table.LATENT | {"index_topk": 4})
        model = models_table.tiny_model("deepseek_v32", models_table.families()["deepseek_v32"])
        ids = torch.arange(3, 23).unsqueeze(0)
        with torch.no_grad():
            expected = model(input_ids=ids, use_cache=False).logits
            found = LMPolicy(model, None).model(input_ids=ids, use_cache=False).logits
            torch.testing.assert_close(found, expected)
            model.set_attn_implementation(ATTENTION)  # the control
            assert (model(input_ids=ids, use_cache=False).logits - expected).abs().max() > 0.01

    @pytest.mark.parametrize("line", ['if name == "sdpa":', "if name not in ('eager',\n    'sdpa'):", 'x != "sdpa"'])
    def test_comparisons_are_found(self, line):
        assert kernels.COMPARES_WITH_SDPA.search(line)

    @pytest.mark.parametrize("line", ['name: str = "sdpa"', '{"sdpa": Attention}', '_supports_sdpa == x["sdpa"]'])
    def test_other_names_are_not(self, line):
        assert not kernels.COMPARES_WITH_SDPA.search(line)

    def test_the_original_attention_is_put_back(self):
        model = policy_of("gpt2").model
        with kernels.original_attention(model):
            assert model.config._attn_implementation == "sdpa"
        assert model.config._attn_implementation == ATTENTION

    def test_saved_config_does_not_name_it(self, tmp_path):
        policy = policy_of("gpt2")
        policy.save(tmp_path)
        assert ATTENTION not in (tmp_path / "config.json").read_text()
        assert type(policy.model).from_pretrained(tmp_path).config._attn_implementation == "sdpa"
        assert LMPolicy.from_pretrained(tmp_path, with_tokenizer=False).model.config._attn_implementation == ATTENTION

    def test_fully_masked_rows_are_finite(self):
        """Rows that have ended may be fully masked; their output is not used, but must not be NaN."""
        nothing = torch.zeros((B, 1, 1, L), dtype=torch.bool)
        assert bool(single_query_attention(nn.Module(), *inputs(), nothing)[0].isfinite().all())
        assert torch.finfo(torch.float32).min == kernels.MASKED
