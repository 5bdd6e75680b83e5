"""Policies without a download: warmed up on the environment's references, and kept in the cache."""

import itertools
from types import SimpleNamespace

import gymnasium as gym
import pytest
import torch
from doubles import foreign_envs
from torch import nn

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import LMPolicy, TextLayout, tiny, tiny_guide, tiny_policy
from tril_gym.agents.algorithms.bc import BehaviourCloning
from tril_gym.agents.tiny import GUIDE_TEMPERATURE, GUIDE_TOP_P, gather_references

SMALL = {"width": 32, "heads": 2, "samples": 96, "progress": False}


def of_each_step(monkeypatch, seen):
    """Replace pretraining's steps by a function; return the list to which its results are added."""
    found = []

    def step(self, texts):
        found.append(seen(self, texts))
        return {"policy/loss": 0.0}

    monkeypatch.setattr(BehaviourCloning, "step", step)
    return found


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """A cache of each test's own."""
    monkeypatch.setenv("TRIL_GYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def envs(num_envs: int = 8, **settings):
    # With this rule each prompt has one right text, which ends at its own place.
    return gym.make_vec("tril/Toy-v0", num_envs=num_envs, **{"rule": "sparse"} | settings)


def weights(policy: LMPolicy) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in policy.model.state_dict().values()]


def equal(one: LMPolicy, other: LMPolicy) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@torch.no_grad()
def loss_on(policy: LMPolicy, seed: int = 50) -> float:
    """Nats per token of references under other seeds than those of the pretraining."""
    texts = gather_references(envs(), TextLayout.of(envs()), 64, seed=seed)
    return float(-policy.plain_logprobs(texts)[texts.is_token].mean())


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
class TestWarmUp:
    def test_it_lowers_the_loss(self, kind):
        untrained, warm, long = (
            loss_on(tiny_policy(envs(), kind=kind, **SMALL | {"samples": n, "epochs": epochs}))
            for n, epochs in ((0, 1), (256, 1), (256, 5))
        )
        assert untrained > 2.0  # ln 16 = 2.8 nats, where all words are alike
        assert warm < untrained - 0.2
        assert long < warm - 0.2

    def test_it_fits_the_environment(self, kind):
        policy, layout = tiny_policy(envs(), kind=kind, **SMALL | {"samples": 0}), TextLayout.of(envs())
        policy.check(layout)
        assert policy.tokenizer is envs().unwrapped.tokenizer
        assert policy.model.config.is_encoder_decoder == (kind == "seq2seq")

    def test_the_second_time_it_comes_from_the_cache(self, kind, monkeypatch):
        first = tiny_policy(envs(), kind=kind, **SMALL)

        def no_training(self, texts):
            raise AssertionError("trained again")

        monkeypatch.setattr(BehaviourCloning, "step", no_training)
        assert equal(tiny_policy(envs(), kind=kind, **SMALL), first)
        # Not one thing that the weights depend on may be missing from the key.
        others = [{"epochs": 3.0}, {"samples": 97}, {"width": 34}, {"learning_rate": 1e-2}, {"seed": 1}]
        others += [{"weight_decay": 0.1}, {"lr_schedule": "cosine"}, {"lr_warmup": 1}, {"minibatch_size": 16}]
        for other in [*others, {"seconds": 1e9}, {"threads": 2}, {"dropout": 0.1}]:
            with pytest.raises(AssertionError, match="trained again"):
                tiny_policy(envs(), kind=kind, **SMALL | other)
        with pytest.raises(AssertionError, match="trained again"):
            tiny_policy(envs(rule="stop"), kind=kind, **SMALL)
        with pytest.raises(AssertionError, match="trained again"):
            tiny_policy(envs(), kind={"causal": "seq2seq", "seq2seq": "causal"}[kind], **SMALL)

    def test_a_torn_file_is_made_again(self, kind, cache_folder):
        first = weights(tiny_policy(envs(), kind=kind, **SMALL))  # copies: a loaded model's own lie in the file
        (file,) = cache_folder.rglob("*.safetensors")
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        again = weights(tiny_policy(envs(), kind=kind, **SMALL))
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
        assert file.read_bytes() == whole


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_dropout_is_drawn_by_the_seed_and_ends_with_pretraining(kind, tmp_path, monkeypatch):
    models, rates, step = [], [], BehaviourCloning.step

    def active(model):
        return {module.p for module in model.modules() if module.training and isinstance(module, nn.Dropout)}

    def noted(self, texts):
        models.append(self.policy.model)
        rates.append(active(self.policy.model))
        return step(self, texts)

    monkeypatch.setattr(BehaviourCloning, "step", noted)
    state = torch.random.get_rng_state()
    policy = tiny_policy(envs(), kind=kind, **SMALL | {"dropout": 0.25})
    assert rates == [{0.25}] * 18
    assert active(models[0]) == set()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not equal(tiny_policy(envs(), kind=kind, **SMALL), policy)
    monkeypatch.setenv("TRIL_GYM_CACHE", str(tmp_path / "other"))
    assert equal(tiny_policy(envs(), kind=kind, **SMALL | {"dropout": 0.25}), policy)


def test_encoder_decoders_have_steps_of_their_own():
    default, alike, other = (
        tiny_policy(envs(), kind="seq2seq", **SMALL | further)
        for further in ({}, {"learning_rate": 2e-3}, {"learning_rate": tiny.TinySettings().learning_rate})
    )
    assert equal(default, alike)
    assert not equal(default, other)
    assert tiny.settings_of("causal", {}) == tiny.TinySettings()


def test_encoder_decoders_begin_with_embeddings_of_their_scale():
    """T5's own, of a standard deviation of 1, drown what the layers say."""
    model = tiny_policy(envs(), kind="seq2seq", **SMALL | {"samples": 0}).model
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(tiny.EMBEDDING_SCALE, rel=0.2)
    assert not model.config.scale_decoder_outputs


def test_the_cache_knows_the_weights_before_training(monkeypatch):
    before = tiny_policy(envs(), kind="seq2seq", **SMALL)
    monkeypatch.setattr(tiny, "EMBEDDING_SCALE", 0.1)
    assert not equal(before, tiny_policy(envs(), kind="seq2seq", **SMALL))


def test_the_rows_of_the_environment_make_no_difference(monkeypatch):
    layout = TextLayout.of(envs())
    wide, narrow = (gather_references(envs(rows), layout, 30, seed=3) for rows in (16, 7))
    assert torch.equal(wide.tokens, narrow.tokens)
    assert torch.equal(wide.prompts, narrow.prompts)
    other = gather_references(envs(7), layout, 30, seed=40)
    assert not torch.equal(wide.tokens, other.tokens)


def test_references_are_their_words_and_eos():
    texts = gather_references(envs(), TextLayout.of(envs()), 20, seed=0)
    for tokens, prompt in zip(texts.tokens.tolist(), texts.prompts.tolist(), strict=True):
        words = [word for word in prompt if word]
        assert [token for token in tokens if token] == [*reversed(words), 1]  # the sparse rule asks for the reverse


def test_the_tiny_guide_is_the_policy_sampled_more_greedily(monkeypatch):
    runs, pretrain = [], tiny._pretrain

    def counted(*arguments):
        runs.append(arguments)
        pretrain(*arguments)

    monkeypatch.setattr(tiny, "_pretrain", counted)
    policy, guide = tiny_policy(envs(), **SMALL), tiny_guide(envs(), **SMALL)
    assert len(runs) == 1
    assert equal(policy, guide.policy)
    expected = {
        "temperature": GUIDE_TEMPERATURE,
        "top_k": None,
        "top_p": GUIDE_TOP_P,
        "greedy": False,
        "min_new_tokens": None,
    }
    assert guide.settings() == expected


def test_pretraining_ends_after_the_given_seconds():
    untrained, stopped, whole = (
        tiny_policy(envs(), **SMALL | settings) for settings in ({"samples": 0}, {"seconds": 1e-9}, {})
    )
    assert equal(untrained, stopped)
    assert not equal(untrained, whole)


def test_seconds_are_counted_from_the_beginning_of_pretraining(monkeypatch):
    # The clock says 0 at the beginning, then 1, 2 and 3 before the steps: the third would begin after 2.5 seconds.
    clock = itertools.count()
    monkeypatch.setattr(tiny, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    steps = of_each_step(monkeypatch, lambda self, texts: len(texts))
    tiny_policy(envs(), **SMALL | {"seconds": 2.5})
    assert len(steps) == 2


def test_pretraining_prints_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(tiny, "LINE_SECONDS", 0.0)
    tiny_policy(envs(), **SMALL | {"progress": True, "epochs": 1})
    drawing, lines = [], capsys.readouterr().err.splitlines()
    while lines[0].startswith("drawing prompts to imitate: "):
        drawing.append(lines.pop(0).split(" after ")[0])
    assert drawing == [f"drawing prompts to imitate: {drawn} of 96 steps" for drawn in range(8, 97, 8)]
    assert lines[0] == "pretraining of the tiny causal model: 3 steps"
    assert [line.split(" after ")[0] for line in lines[1:]] == [
        f"pretraining of the tiny causal model: {step} of 3 steps" for step in (1, 2, 3)
    ]
    losses = [float(line.removesuffix(" nats a token").rpartition("  ")[2]) for line in lines[1:]]
    assert losses[0] > losses[-1] > 1


class TestSettings:
    BAD = (
        ({"width": 0}, "width must be at least 1, got 0; the usual value is 64"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"width": 30, "heads": 4}, "width must be a multiple of heads, got 30 and 4 heads"),
        ({"samples": -1}, "samples must be at least 0, got -1"),
        ({"epochs": 0.0}, "epochs must be above 0, got 0.0"),
        ({"learning_rate": 0.0}, "learning_rate must be in [(]0, 1[]]"),
    )

    @pytest.mark.parametrize(("settings", "message"), BAD)
    def test_bad_numbers(self, settings, message):
        with pytest.raises(ValueError, match=message.replace(".", r"\.")):
            tiny_policy(envs(), **settings)

    def test_an_unknown_setting(self):
        with pytest.raises(TypeError, match="widht"):
            tiny_policy(envs(), widht=3)

    def test_an_unknown_kind(self):
        with pytest.raises(ValueError, match=r'"causal".* or "seq2seq".*, got \'rnn\''):
            tiny_policy(envs(), kind="rnn")

    def test_no_tokenizer(self):
        with pytest.raises(ValueError, match="built for the environment's tokenizer, but it shows none"):
            tiny_policy(foreign_envs(2))

    def test_no_references(self):
        bare = foreign_envs(2)
        bare.envs[0].tokenizer = envs().unwrapped.tokenizer
        with pytest.raises(ValueError, match=r"no reference to pretrain on, .*samples=0"):
            tiny_policy(bare, **SMALL)

    def test_positive_examples_only(self):
        reviews = gym.make_vec("tril/IMDB-v0", num_envs=16, reward=None, autoreset_mode="Disabled")
        layout = TextLayout.of(reviews)
        liked = {example.references[0] for example in reviews.unwrapped.examples if example.label == 1}
        for positive_only in (True, False):
            texts = gather_references(reviews, layout, 40, seed=0, positive_only=positive_only)
            rows = [tokens[is_token].tolist() for tokens, is_token in zip(texts.tokens, texts.is_token, strict=True)]
            written = [text.strip() for text in layout.tokenizer.batch_decode(rows, skip_special_tokens=True)]
            assert len(written) == 40
            assert all(any(text.startswith(of) for text in liked) for of in written) == positive_only
        with pytest.raises(ValueError, match="needs examples labelled 1, but none of 10000 that were drawn is"):
            tiny_policy(envs(), **SMALL, positive_only=True)

    def test_untrained_weights_depend_on_the_seed_alone(self):
        settings = {"samples": 0, "width": 32, "heads": 2}
        one, two, other = (tiny_policy(envs(), **settings, seed=seed) for seed in (1, 1, 2))
        assert equal(one, two)
        assert not equal(one, other)

    def test_fractions_of_an_epoch(self, monkeypatch):
        steps = of_each_step(monkeypatch, lambda self, texts: len(texts))
        tiny_policy(envs(), **SMALL | {"samples": 100, "epochs": 0.5})
        assert steps == [32, 32]

    def test_the_step_size_follows_its_schedule(self, monkeypatch):
        rates = of_each_step(monkeypatch, lambda self, texts: self.optimizer.param_groups[0]["lr"])
        schedule = {"lr_schedule": "linear", "lr_warmup": 2, "learning_rate": 0.3}
        tiny_policy(envs(), **SMALL | {"samples": 160, "epochs": 1} | schedule)
        assert rates == pytest.approx([0.1, 0.2, 0.3, 0.2, 0.1])

    def test_weight_decay_is_that_of_the_optimizer(self, monkeypatch):
        decays = of_each_step(monkeypatch, lambda self, texts: self.optimizer.param_groups[0]["weight_decay"])
        tiny_policy(envs(), **SMALL | {"samples": 64, "epochs": 1, "weight_decay": 0.3})
        assert decays == [0.3, 0.3]
