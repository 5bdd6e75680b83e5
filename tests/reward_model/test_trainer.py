"""The loss, the batches and the checks of a reward model's trainer."""

import math

import numpy as np
import pytest
import torch
from preference_pairs import polite_pairs
from reward_models import QUICK, same_weights
from transformers import TrainerCallback

from tril_gym.data.preferences import is_right
from tril_gym.reward_model import trainer as trainer_module
from tril_gym.reward_model.config import RewardModelConfig, resolve
from tril_gym.reward_model.network import encode_pairs, pad_pairs, reward_margins, tiny_network
from tril_gym.reward_model.trainer import (
    LengthGroupedBatches,
    PreferenceTrainer,
    epoch_metrics,
    hide_tokens,
    preference_loss,
    training_arguments,
)
from tril_gym.rewards.neural.preference import TEMPLATE
from tril_gym.utils.global_state import preserve_global_state
from tril_gym.utils.ranks import Ranks
from tril_gym.utils.seeding import seeded

LAYOUT = {"template": TEMPLATE, "max_length": 32}


class Trained:
    """A tiny network, trained on pairs."""

    def __init__(self, pairs, folder, *, rank=None, callback=None, start=None, **settings):
        config = RewardModelConfig(dataset="in memory", **QUICK | settings)
        config = resolve(config, num_pairs=len(pairs), max_length=32)
        self.model, self.tokenizer = tiny_network(pairs, **LAYOUT, seed=config.seed)
        self.steps = config.epochs * math.ceil(len(pairs) / config.batch_size)
        ranks = Ranks() if rank is None else OneOfTwo(rank)
        with preserve_global_state():
            self.trainer = PreferenceTrainer(
                self.model,
                training_arguments(config, folder, steps=self.steps, processes=ranks.size),
                encode_pairs(self.tokenizer, pairs, **LAYOUT),
                pad_id=self.tokenizer.pad_token_id,
                drop_tokens=config.drop_tokens,
                center_coef=config.center_coef,
                callback=callback or TrainerCallback(),
                ranks=ranks,
            )
            self.trainer.train(resume_from_checkpoint=None if start is None else str(start))

    def accuracy(self, pairs):
        return is_right(reward_margins(self.model, self.tokenizer, pairs, **LAYOUT)).mean()


class TestLoss:
    def test_by_hand(self):
        # Margins 1 and −2:
        #   −log σ(1)  = log(1 + e^−1) = 0.3132617
        #   −log σ(−2) = log(1 + e^2)  = 2.1269280
        # mean 1.2200948; sums 1 and 2, so with c = 0.1 another 0.1 · (1 + 4) / 2 = 0.25
        chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
        assert preference_loss(chosen, rejected).item() == pytest.approx(1.2200948)
        assert preference_loss(chosen, rejected, center_coef=0.1).item() == pytest.approx(1.4700948)

    def test_gradient_by_hand(self):
        # d/dr(chosen) of −log σ(m) is −σ(−m): at m = 0, −1/2, halved by the mean over two pairs.
        chosen, rejected = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
        preference_loss(chosen, rejected).backward()
        assert chosen.grad.tolist() == [-0.25, -0.25]
        assert rejected.grad.tolist() == [0.25, 0.25]

    def test_equals_binary_cross_entropy_of_the_margin(self):
        chosen, rejected = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
        oracle = torch.nn.functional.binary_cross_entropy_with_logits(chosen - rejected, torch.ones(50))
        assert preference_loss(chosen, rejected).item() == pytest.approx(oracle.item(), rel=1e-6)
        assert preference_loss(rejected, chosen).item() != pytest.approx(oracle.item(), rel=1e-2)

    def test_only_centring_changes_when_rewards_shift(self):
        chosen, rejected = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 2.0])
        shifted = chosen + 3, rejected + 3
        assert preference_loss(*shifted).item() == pytest.approx(preference_loss(chosen, rejected).item())
        assert preference_loss(*shifted, center_coef=0.1) > preference_loss(chosen, rejected, center_coef=0.1) + 1

    def test_large_margins_stay_finite(self):
        assert preference_loss(torch.tensor([-1e4]), torch.tensor([1e4])).item() == 2e4
        assert preference_loss(torch.tensor([1e4]), torch.tensor([-1e4])).item() == 0.0

    def test_refuses_shapes_that_would_broadcast(self):
        with pytest.raises(AssertionError):
            preference_loss(torch.zeros(2, 1), torch.zeros(2))


class OneOfTwo(Ranks):
    """One of two processes, which sends nothing: it steps by its own half of each batch alone."""

    size = 2

    def __init__(self, rank):
        self.rank = rank


class TestBatches:
    def test_every_pair_once_with_pairs_of_like_length(self):
        lengths = np.random.default_rng(0).integers(1, 200, size=100).tolist()
        batches = LengthGroupedBatches(lengths, 8, seed=1)
        found = list(batches)
        assert len(batches) == len(found) == 13
        assert sorted(index for batch in found for index in batch) == list(range(100))
        assert [len(batch) for batch in found].count(8) == 12
        spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in found]
        assert np.median(spread) <= 32
        assert found == list(LengthGroupedBatches(lengths, 8, seed=1))
        assert found != list(LengthGroupedBatches(lengths, 8, seed=2))

    def test_epochs_have_orders_of_their_own(self):
        batches = LengthGroupedBatches([5] * 40, 8, seed=0)
        first = list(batches)
        batches.set_epoch(1)
        assert list(batches) != first
        batches.set_epoch(0)
        assert list(batches) == first

    def test_trainer_draws_a_new_order_each_epoch(self, tmp_path, monkeypatch):
        seen = []
        monkeypatch.setattr(
            trainer_module, "pad_pairs", lambda pairs, pad_id: seen.append(pairs) or pad_pairs(pairs, pad_id)
        )
        Trained(polite_pairs(40), tmp_path)
        assert len(seen) == 10
        assert seen[:5] != seen[5:]
        assert sorted(pair for batch in seen[:5] for pair in batch) == sorted(
            pair for batch in seen[5:] for pair in batch
        )

    @pytest.mark.parametrize(("number", "repeated"), [(24, 0), (26, 0), (25, 1), (27, 1)])
    def test_two_processes_share_every_batch_evenly(self, number, repeated):
        lengths = [5] * number
        places = set()
        for epoch in range(8):
            whole, *halves = (
                LengthGroupedBatches(lengths, 8, seed=0, ranks=r) for r in (Ranks(), *map(OneOfTwo, (0, 1)))
            )
            for batches in (whole, *halves):
                batches.set_epoch(epoch)
            expected, *parts = map(list, (whole, *halves))
            assert len(expected) == len(halves[0]) == len(parts[0]) == len(parts[1])
            assert all(len(mine) == len(theirs) for mine, theirs in zip(*parts, strict=True))
            together = [mine + theirs for mine, theirs in zip(*parts, strict=True)]
            assert [batch[: len(wanted)] for batch, wanted in zip(together, expected, strict=True)] == expected
            assert all(set(batch) == set(wanted) for batch, wanted in zip(together, expected, strict=True))
            assert sum(map(len, together)) == number + repeated
            places.add([len(batch) for batch in expected].index(min(map(len, expected))))
        assert len(places) > 1 or number == 24  # the short batch is anywhere

    @pytest.mark.parametrize("rank", [0, 1])
    @pytest.mark.parametrize("step", [2, 6, 7])
    def test_a_resumed_process_reads_on_where_it_stopped(self, rank, step, tmp_path, monkeypatch):
        """26 pairs in batches of 8: steps 1 to 4 are the first epoch, 5 to 8 the second."""
        pairs, seen = polite_pairs(26), []
        monkeypatch.setattr(
            trainer_module, "pad_pairs", lambda pairs, pad_id: seen.append(pairs) or pad_pairs(pairs, pad_id)
        )

        class Stop(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = control.should_save = state.global_step == step

        whole = Trained(pairs, tmp_path / "whole", rank=rank)
        read, seen[:] = list(seen), []
        Trained(pairs, tmp_path / "stopped", rank=rank, callback=Stop())
        assert seen[:step] == read[:step]
        seen.clear()
        resumed = Trained(pairs, tmp_path / "resumed", rank=rank, start=tmp_path / "stopped" / f"checkpoint-{step}")
        assert seen == read[step:]
        assert (len(read), resumed.trainer.state.global_step) == (8, 8)
        assert same_weights(resumed.model, whole.model)


class TestHideTokens:
    def test_first_and_last_token_stay(self):
        inputs = pad_pairs([([1, 2, 3, 4, 5], [1, 2, 3])] * 200, pad_id=0)
        with seeded(0):
            mask = hide_tokens(inputs, 0.5)["attention_mask"]
        assert mask[:200, [0, 4]].all()
        assert mask[200:, [0, 2]].all()
        assert not mask[200:, 3:].any()
        assert 0.4 < mask[:200, 1:4].double().mean() < 0.6
        assert inputs["attention_mask"][:200].all()

    def test_tokens_are_hidden_in_training_alone(self, tmp_path, monkeypatch):
        shares, patterns = [], set()

        def recorded(inputs, share):
            hidden = hide_tokens(inputs, share)
            shares.append(share)
            patterns.add(str((inputs["attention_mask"] - hidden["attention_mask"])[:, 1:6].tolist()))
            return hidden

        monkeypatch.setattr(trainer_module, "hide_tokens", recorded)
        trained = Trained(polite_pairs(40), tmp_path, drop_tokens=0.25)
        trained.accuracy(polite_pairs(10))
        assert shares == [0.25] * trained.steps
        assert len(patterns) == trained.steps  # each step hides others


def test_every_setting_reaches_trainer(tmp_path):
    given = {"epochs": 7, "batch_size": 3, "learning_rate": 0.5, "weight_decay": 0.25, "max_grad_norm": 2.0, "seed": 9}
    config = RewardModelConfig(dataset="in memory", lr_schedule="cosine", warmup=0.5, **given)
    with preserve_global_state():
        args = training_arguments(resolve(config, num_pairs=6, max_length=32), tmp_path, steps=14)
    names = {"epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size"}
    assert {name: getattr(args, names.get(name, name)) for name in given} == given
    assert (args.lr_scheduler_type, args.warmup_steps, args.device.type) == ("cosine", 7, "cpu")


class TestPreferenceTrainer:
    def test_learns_which_words_are_preferred(self, tmp_path):
        trained, held_out = Trained(polite_pairs(200), tmp_path), polite_pairs(60, seed=1)
        assert trained.accuracy(held_out) > 0.95
        history, steps = trained.trainer.state.log_history, trained.steps
        last = epoch_metrics(history, first=steps // 2 + 1, last=steps)
        rates = [row["learning_rate"] for row in history if "loss" in row]
        assert rates[0] == 0.0
        assert max(rates) == rates[2] == QUICK["learning_rate"]  # after 5 % of 50 steps
        assert rates[-1] == pytest.approx(QUICK["learning_rate"] / 48)
        assert last["train/loss"] < math.log(2)
        assert last["train/accuracy"] > 0.9

    def test_random_preferences_teach_nothing(self, tmp_path):
        trained = Trained(polite_pairs(200, swapped=True), tmp_path)
        assert 0.25 < trained.accuracy(polite_pairs(60, seed=1, swapped=True)) < 0.75  # 1/2 ± 0.065

    def test_the_seed_alone_decides_the_weights(self, tmp_path):
        pairs = polite_pairs(40)
        torch.manual_seed(1)
        first = Trained(pairs, tmp_path)
        torch.manual_seed(2)
        assert same_weights(first.model, Trained(pairs, tmp_path).model)
        assert not same_weights(first.model, Trained(pairs, tmp_path, seed=1).model)

    def test_rewards_are_centred(self, tmp_path):
        pairs = polite_pairs(40)
        assert not same_weights(Trained(pairs, tmp_path).model, Trained(pairs, tmp_path, center_coef=1.0).model)

    def test_epoch_metrics_weigh_batches_by_their_pairs(self):
        # Batches of 3 and 1 pairs: (3 · 1 + 1 · 2) / 4 and (2 + 1) / 4; the first step and Trainer's summary stay out.
        history = [
            {"step": 1, "loss": 9.0, "correct": 0, "pairs": 3},
            {"step": 2, "loss": 1.0, "correct": 2, "pairs": 3},
            {"step": 3, "loss": 2.0, "correct": 1, "pairs": 1},
            {"step": 3, "train_loss": 5.0, "correct": 1, "pairs": 1},
        ]
        assert epoch_metrics(history, first=2, last=3) == {"train/loss": 1.25, "train/accuracy": 0.75}

    def test_margins_do_not_depend_on_the_batch(self, tmp_path):
        trained, pairs = Trained(polite_pairs(100), tmp_path), polite_pairs(70)
        trained.model.train()
        together = reward_margins(trained.model, trained.tokenizer, pairs, **LAYOUT)
        alone = [reward_margins(trained.model, trained.tokenizer, [pair], **LAYOUT)[0] for pair in pairs[:5]]
        assert together[:5] == pytest.approx(alone, abs=1e-5)
        assert trained.model.training

    def test_a_learning_rate_that_diverges_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            trainer_module, "preference_loss", lambda *args, **settings: math.nan * preference_loss(*args, **settings)
        )
        with pytest.raises(FloatingPointError, match=r"start again with a --learning-rate below 0\.5"):
            Trained(polite_pairs(40), tmp_path, learning_rate=0.5)

    @pytest.mark.parametrize(
        ("broken", "words"),
        [
            (lambda loss: loss * math.nan, "loss nan"),
            (lambda loss: loss + math.inf, "loss inf"),
            (lambda loss: loss + (loss - loss.detach()).abs().sqrt(), r"loss 0\.\d+ and the gradient norm nan"),
            (lambda loss: loss + (loss - loss.detach()) * 1e30, r"loss 0\.\d+ and the gradient norm inf"),
        ],
    )
    def test_no_step_is_taken_on_values_that_are_not_finite(self, broken, words, tmp_path, monkeypatch):
        pairs, calls, before = polite_pairs(40), [], {}

        class Kept(PreferenceTrainer):
            def training_step(self, model, *args):
                before.update((name, weight.clone()) for name, weight in model.state_dict().items())
                before["model"] = model
                return super().training_step(model, *args)

        def loss_at(*args, **settings):
            calls.append(None)
            loss = preference_loss(*args, **settings)
            return broken(loss) if len(calls) == 3 else loss

        monkeypatch.setattr(trainer_module, "preference_loss", loss_at)
        monkeypatch.setitem(globals(), "PreferenceTrainer", Kept)
        with pytest.raises(FloatingPointError, match=f"step 3 of 10 has the {words}"):
            Trained(pairs, tmp_path)
        after = before.pop("model").state_dict()
        assert all(torch.equal(after[name], weight) for name, weight in before.items())
        assert len(calls) == 3
