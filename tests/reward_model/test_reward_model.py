"""Reward models: the loss, the pairs, learning, folders that go on where they stopped, and the command."""

import csv
import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import paths
import pytest
import torch
import transformers
from click.testing import CliRunner
from rich.console import Console
from tokenizers.processors import TemplateProcessing

from tril_gym import rewards
from tril_gym.cli import main
from tril_gym.data.preferences import Pair, agreement, is_right, length_margins, load_pairs, mean_and_error, read
from tril_gym.experiment.report import RunConsole
from tril_gym.reward_model import training as runs
from tril_gym.reward_model.build import Settings, settings_of
from tril_gym.reward_model.learner import (
    Learner,
    RewardModelConfig,
    batches,
    config_for,
    hidden,
    preference_loss,
    usual_epochs,
)
from tril_gym.reward_model.network import (
    drawing_from,
    encode,
    load_network,
    margins,
    pad_pairs,
    tiny_network,
    with_lora,
)
from tril_gym.rewards.neural.preference import TEMPLATE
from tril_gym.rewards.neural.training import FitConfig, train_tokenizer
from tril_gym.utils.interrupt import Interrupted

DATA = paths.DATA / "preferences"
QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 2e-3, "max_length": 32}
GOOD, BAD = ("kind", "clear", "true"), ("rude", "vague", "false")
SILENT = RunConsole(Console(quiet=True))


def polite_pairs(number, *, seed=0, swapped=False):
    """Pairs of equally long answers, of which the one with a good word is chosen; or, swapped, any of the two."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(number):
        words = [f" it is {rng.choice(kind)} of {rng.choice(['you', 'him', 'her'])}" for kind in (GOOD, BAD)]
        if swapped and rng.random() < 0.5:
            words.reverse()
        pairs.append(Pair(f"question {seed} {index}?", *words))
    return pairs


def write_pairs(path, pairs):
    rows = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def learner_of(pairs, **hyperparameters):
    config = config_for("tiny", **QUICK | hyperparameters)
    model, tokenizer = tiny_network(pairs, template=TEMPLATE, max_length=config.max_length, seed=config.seed)
    rows = encode(tokenizer, pairs, template=TEMPLATE, max_length=config.max_length)
    return Learner(model, rows, config, pad_id=tokenizer.pad_token_id), tokenizer


def finished(learner):
    for _ in learner.steps():
        pass
    return learner


def same_weights(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


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

    def test_it_is_the_cross_entropy_of_a_coin_with_the_margin_as_its_logit(self):
        chosen, rejected = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
        oracle = torch.nn.functional.binary_cross_entropy_with_logits(chosen - rejected, torch.ones(50))
        assert preference_loss(chosen, rejected).item() == pytest.approx(oracle.item(), rel=1e-6)
        assert preference_loss(rejected, chosen).item() != pytest.approx(oracle.item(), rel=1e-2)

    def test_only_centring_knows_where_zero_is(self):
        chosen, rejected = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 2.0])
        shifted = chosen + 3, rejected + 3
        assert preference_loss(*shifted).item() == pytest.approx(preference_loss(chosen, rejected).item())
        assert preference_loss(*shifted, center_coef=0.1) > preference_loss(chosen, rejected, center_coef=0.1) + 1

    def test_large_margins_stay_finite(self):
        assert preference_loss(torch.tensor([-1e4]), torch.tensor([1e4])).item() == 2e4
        assert preference_loss(torch.tensor([1e4]), torch.tensor([-1e4])).item() == 0.0

    def test_shapes_that_would_broadcast_are_refused(self):
        with pytest.raises(AssertionError):
            preference_loss(torch.zeros(2, 1), torch.zeros(2))


class TestFigures:
    def test_right_and_wrong(self):
        assert is_right(np.array([0.1, 0.0, -3.0])).tolist() == [1.0, 0.5, 0.0]

    def test_mean_and_error_by_hand(self):
        # 1, 1, 0, 0: mean 1/2, variance 4 · (1/4) / 3 = 1/3, standard error √(1/3 / 4)
        found = mean_and_error(np.array([1.0, 1.0, 0.0, 0.0]))
        assert found == {"mean": 0.5, "standard_error": pytest.approx(math.sqrt(1 / 12)), "pairs": 4}
        assert mean_and_error(np.array([1.0])) == {"mean": 1.0, "standard_error": None, "pairs": 1}
        assert mean_and_error(np.array([])) == {"mean": None, "standard_error": None, "pairs": 0}

    def test_beside_a_length_only_scorer(self):
        pairs = [Pair("", "long", "s"), Pair("", "s", "long"), Pair("", "same", "size"), Pair("", "s", "long")]
        assert length_margins(pairs).tolist() == [3.0, -3.0, 0.0, -3.0]
        found = agreement(np.array([1.0, 1.0, 1.0, -1.0]), pairs)
        assert {name: figure["mean"] for name, figure in found.items()} == {
            "reward_model": 3 / 4,
            "longer_is_better": (1 + 0 + 1 / 2 + 0) / 4,
            "difference": (0 + 1 + 1 / 2 + 0) / 4,
            "chosen_is_shorter": 1 / 2,
        }
        assert found["chosen_is_shorter"]["pairs"] == 2


class TestPairs:
    def test_a_prompt_stands_on_one_side(self, tmp_path):
        pairs = [Pair(f"prompt {number % 50}", f" a{number}", f" b{number}") for number in range(300)]
        data = load_pairs(write_pairs(tmp_path / "pairs.jsonl", pairs))
        assert not {pair.prompt for pair in data.train} & {pair.prompt for pair in data.held_out}
        assert sorted(map(repr, (*data.train, *data.held_out))) == sorted(map(repr, pairs))
        assert data.held_out == load_pairs(tmp_path / "pairs.jsonl").held_out
        assert f"{len(data.held_out)} of the 300 pairs" in data.source

    def test_about_a_tenth_is_held_out(self, tmp_path):
        data = load_pairs(write_pairs(tmp_path / "pairs.jsonl", polite_pairs(1000)))
        assert 70 < len(data.held_out) < 130  # 100 ± 9.5

    def test_every_kind_of_file(self, tmp_path):
        import pyarrow
        import pyarrow.parquet

        rows = [{"prompt": f"p, {n}", "chosen": f'"c"\n{n}', "rejected": f"r{n}"} for n in range(60)]
        with (tmp_path / "pairs.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
            writer.writeheader()
            writer.writerows(rows)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "pairs.parquet")
        write_pairs(tmp_path / "pairs.jsonl", [Pair(**row) for row in rows])
        found = [load_pairs(tmp_path / f"pairs.{ending}") for ending in ("csv", "parquet", "jsonl")]
        assert found[0].train == found[1].train == found[2].train
        assert found[0].held_out == found[1].held_out == found[2].held_out

    def test_a_folder_with_both_parts_and_one_without(self, tmp_path):
        pairs = polite_pairs(40)
        write_pairs(tmp_path / "train.jsonl", pairs)
        whole = load_pairs(tmp_path)
        assert len(whole.train) + len(whole.held_out) == 40
        write_pairs(tmp_path / "validation.jsonl", polite_pairs(5, seed=1))
        parts = load_pairs(tmp_path)
        assert (list(parts.train), list(parts.held_out)) == (pairs, polite_pairs(5, seed=1))

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (
                {"prompt": "a", "choosen": "b", "rejected": "c"},
                r"line 41: there is no column 'chosen'; found .*choosen",
            ),
            ({"prompt": "a", "chosen": "", "rejected": "c"}, r"line 41: chosen must be a text that is not empty"),
            ({"prompt": 3, "chosen": "b", "rejected": "c"}, r"line 41: prompt must be a text, got 3"),
            ({"prompt": "a", "chosen": [{"role": "user"}], "rejected": "c"}, r"line 41: chosen must be a text"),
            (
                {"prompt": "a", "chosen": "b", "rejected": "b"},
                r"line 41: chosen and rejected must differ, got 'b' twice",
            ),
        ],
    )
    def test_a_bad_row_is_named(self, tmp_path, row, message):
        path = Path(write_pairs(tmp_path / "pairs.jsonl", polite_pairs(40)))
        path.write_text(path.read_text() + json.dumps(row) + "\n")
        with pytest.raises(ValueError, match=message):
            load_pairs(path)
        skipped = load_pairs(path, on_bad_row="skip")
        assert len(skipped.train) + len(skipped.held_out) == 40

    @pytest.mark.parametrize(
        ("prompt", "chosen", "rejected", "space"),
        [
            ("TL;DR:", "yes", "no", " "),
            ("TL;DR:", " yes", " no", ""),
            ("TL;DR:", "yes", " no", ""),  # of which one is right nobody knows
            ("TL;DR:\n", "yes", "no", ""),
            ("", "yes", "no", ""),
        ],
    )
    def test_completions_begin_as_policies_begin_them(self, prompt, chosen, rejected, space):
        example = read({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        assert (example.prompt, example.references) == (prompt, (space + chosen,))
        assert example.extras == {"rejected": space + rejected}

    @pytest.mark.parametrize("number", [1, 8])
    def test_too_few(self, tmp_path, number):
        pairs = [Pair("always the same", f"a{index}", f"b{index}") for index in range(number)]
        with pytest.raises(ValueError, match=r"too few pairs in .*: \d to learn from and \d held out"):
            load_pairs(write_pairs(tmp_path / "pairs.jsonl", pairs))

    @pytest.mark.parametrize("name", ["embedded", "hub", "hub:", "nothing.jsonl"])
    def test_nothing_there(self, name):
        with pytest.raises(ValueError, match=r"there is no file or folder .*hub:owner/name"):
            load_pairs(name)

    @pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")
    @pytest.mark.parametrize(("name", "number", "longer"), [("hh", 1500, 0.61), ("tldr", 463, 0.70)])
    def test_real_pairs(self, name, number, longer):
        data = load_pairs(DATA / f"{name}.jsonl.gz")
        whole = [*data.train, *data.held_out]
        assert len(whole) == number
        assert is_right(length_margins(whole)).mean() == pytest.approx(longer, abs=0.01)


class TestTemplate:
    def test_it_lays_out_the_text(self):
        pairs = [Pair("Q", "yes", "no")]
        tokenizer = train_tokenizer(["Q: yes", "Q: no"] * 10, FitConfig())
        [(chosen, rejected)] = encode(tokenizer, pairs, template="{prompt}: {completion}", max_length=16)
        assert [chosen, rejected] == tokenizer(["Q: yes", "Q: no"])["input_ids"]

    def test_long_texts_lose_their_beginning(self):
        tokenizer = train_tokenizer(["a b c d e f g h"] * 10, FitConfig())
        [(ids, _)] = encode(tokenizer, [Pair("a b c d e f", " g h", " h g")], template=TEMPLATE, max_length=8)
        assert len(ids) == 8
        assert ids[0] == tokenizer.cls_token_id
        assert ids[1:] == tokenizer(" b c d e f g h")["input_ids"][1:]

    def test_half_a_character(self):
        tokenizer = train_tokenizer(["a b"] * 10, FitConfig())
        encode(tokenizer, [Pair("\udce2", " a\udce2", " b")], template=TEMPLATE, max_length=16)


class TestConfig:
    @pytest.mark.parametrize(
        ("hyperparameters", "message"),
        [
            ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
            ({"learning_rate": math.inf}, "learning_rate must be finite and above 0, got inf"),
            ({"learning_rate": math.nan}, "learning_rate must be finite and above 0, got nan"),
            ({"epochs": 0}, "epochs must be at least 1"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
            ({"warmup": 1.5}, r"warmup must be in \[0, 1\]"),
            ({"drop_tokens": 1.0}, r"drop_tokens must be in \[0, 1\)"),
            ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
            ({"center_coef": -1.0}, "center_coef must be at least 0"),
            ({"seed": -1}, "seed must be at least 0"),
            ({"max_length": 3}, "max_length must be at least 8"),
        ],
    )
    def test_bad_values(self, hyperparameters, message):
        with pytest.raises(ValueError, match=message):
            RewardModelConfig(**hyperparameters)

    def test_what_is_usual_depends_on_the_model(self):
        assert config_for("gpt2") == RewardModelConfig()
        assert config_for("tiny").learning_rate > config_for("gpt2").learning_rate
        assert config_for("tiny", learning_rate=1e-6).learning_rate == 1e-6
        assert usual_epochs("gpt2", 100, 16) == 1
        assert usual_epochs("tiny", 1000, 16) == 4  # 250 steps of 16 are 4,000 pairs
        assert usual_epochs("tiny", 100_000, 16) == 1

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"template": "{prompt}"}, "template must be a format of {prompt} and {completion}"),
            ({"lora_alpha": 2.0}, "need --lora-rank"),
            ({"lora_rank": 4}, "a tiny model is trained whole"),
            ({"device": "abacus"}, "there is no device 'abacus'"),
        ],
    )
    def test_settings_that_do_not_go_together(self, settings, message):
        with pytest.raises(ValueError, match=message):
            Settings(dataset="pairs.jsonl", **settings)


class TestLearner:
    def test_batches_hold_every_pair_once_and_like_lengths(self):
        lengths = np.random.default_rng(0).integers(1, 200, size=100).tolist()
        found = batches(lengths, 8, np.random.default_rng(1))
        assert sorted(index for batch in found for index in batch) == list(range(100))
        assert [len(batch) for batch in found].count(8) == 12
        spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in found]
        assert np.median(spread) <= 32
        assert found == batches(lengths, 8, np.random.default_rng(1))
        assert found != batches(lengths, 8, np.random.default_rng(2))

    def test_hidden_tokens(self):
        inputs = pad_pairs([([1, 2, 3, 4, 5], [1, 2, 3])] * 200, pad_id=0)
        with drawing_from(0):
            mask = hidden(inputs, 0.5)["attention_mask"]
        assert mask[:200, [0, 4]].all()
        assert mask[200:, [0, 2]].all()
        assert not mask[200:, 3:].any()
        assert 0.4 < mask[:200, 1:4].double().mean() < 0.6
        assert inputs["attention_mask"][:200].all()

    def test_it_learns_which_words_are_preferred(self):
        learner, tokenizer = learner_of(polite_pairs(200))
        rows = encode(tokenizer, polite_pairs(60, seed=1), template=TEMPLATE, max_length=32)
        before = is_right(margins(learner.model, rows, pad_id=learner.pad_id)).mean()
        finished(learner)
        assert is_right(margins(learner.model, rows, pad_id=learner.pad_id)).mean() > max(0.95, before)
        assert learner.figures()["train/loss"] < math.log(2)

    def test_coins_teach_nothing(self):
        learner, tokenizer = learner_of(polite_pairs(200, swapped=True))
        rows = encode(tokenizer, polite_pairs(60, seed=1, swapped=True), template=TEMPLATE, max_length=32)
        finished(learner)
        assert 0.25 < is_right(margins(learner.model, rows, pad_id=learner.pad_id)).mean() < 0.75  # 1/2 ± 0.065

    def test_the_seed_alone_decides(self):
        pairs = polite_pairs(40)
        torch.manual_seed(1)
        first = finished(learner_of(pairs)[0])
        torch.manual_seed(2)
        assert same_weights(first.model, finished(learner_of(pairs)[0]).model)
        assert not same_weights(first.model, finished(learner_of(pairs, seed=1)[0]).model)

    def test_no_global_generator_is_touched(self):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        finished(learner_of(polite_pairs(20))[0])
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002

    @pytest.mark.parametrize("stop", [1, 5, 8])
    def test_saved_and_loaded_it_goes_on_as_if_never_stopped(self, stop, tmp_path):
        pairs = polite_pairs(40)  # 5 steps an epoch
        whole = finished(learner_of(pairs)[0])
        half = learner_of(pairs)[0]
        for _, _ in zip(range(stop), half.steps(), strict=False):
            pass
        torch.save(half.state_dict(), tmp_path / "state.pt")
        again = learner_of(pairs)[0]
        again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert again.step == stop
        finished(again)
        assert same_weights(whole.model, again.model)
        assert again.figures() == whole.figures()

    def test_margins_are_the_same_in_every_company(self):
        learner, tokenizer = learner_of(polite_pairs(100))
        rows = encode(tokenizer, polite_pairs(70), template=TEMPLATE, max_length=32)
        together = margins(learner.model, rows, pad_id=learner.pad_id)
        alone = [margins(learner.model, [row], pad_id=learner.pad_id)[0] for row in rows[:5]]
        assert together[:5] == pytest.approx(alone, abs=1e-5)
        assert learner.model.training

    def test_a_learning_rate_that_breaks_it_is_named(self):
        learner, _ = learner_of(polite_pairs(40), learning_rate=1e30)
        with pytest.raises(FloatingPointError, match=r"start again with a --learning-rate below 1e\+30"):
            finished(learner)


def saved_model(folder, config, kind=transformers.AutoModelForCausalLM, **special):
    """A random model with a tokenizer, in a folder."""
    texts = [text for pair in polite_pairs(40) for text in (pair.prompt, pair.chosen, pair.rejected)]
    tokenizer = train_tokenizer(texts, FitConfig(positions=64))
    if special:
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special)
    with drawing_from(0):
        model = kind.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def gpt2(folder):
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 800}
    return saved_model(folder, transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=1), eos_token="[CLS]")


def bart(folder):
    """Whose texts must end in EOS, and whose head has a name that peft does not know."""
    shape = {"layers": 1, "attention_heads": 1, "ffn_dim": 32}
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in shape.items()}
    config = transformers.BartConfig(d_model=32, max_position_embeddings=64, vocab_size=800, eos_token_id=1, **sizes)
    config.pad_token_id = 0
    name = saved_model(folder, config, transformers.AutoModelForSeq2SeqLM, eos_token="[CLS]", pad_token="[PAD]")
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A [CLS]", special_tokens=[("[CLS]", 1)])
    tokenizer.save_pretrained(name)
    return name


class TestPretrained:
    def test_a_decoder_gets_a_head_and_something_to_pad_with(self, tmp_path):
        model, tokenizer, new = load_network(gpt2(tmp_path), seed=0)
        assert new == ["score"]
        assert model.config.num_labels == 1
        assert model.config.pad_token_id == tokenizer.pad_token_id == tokenizer.eos_token_id
        again, *_ = load_network(str(tmp_path), seed=0)
        other, *_ = load_network(str(tmp_path), seed=1)
        assert torch.equal(model.score.weight, again.score.weight)
        assert not torch.equal(model.score.weight, other.score.weight)
        assert torch.equal(model.transformer.wte.weight, other.transformer.wte.weight)

    def test_a_head_of_other_labels_is_replaced(self, tmp_path):
        config = transformers.BertConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            vocab_size=800,
            num_labels=3,
        )
        name = saved_model(tmp_path, config, transformers.AutoModelForSequenceClassification)
        model, _, new = load_network(name, seed=0)
        assert new == ["classifier"]
        assert model.classifier.weight.shape == (1, 32)

    def test_what_is_no_model(self, tmp_path):
        with pytest.raises(ValueError, match="no reward model could be made of"):
            load_network(str(tmp_path), seed=0)

    def test_only_adapter_and_head_of_lora_train(self, tmp_path):
        model, _, new = load_network(gpt2(tmp_path), seed=0)
        wrapped = with_lora(model, new, rank=2)
        trained = {name for name, weight in wrapped.named_parameters() if weight.requires_grad}
        assert trained
        assert all("lora_" in name or "score" in name for name in trained)
        with pytest.raises(ValueError, match=r"no LoRA: .*--lora-targets"):
            with_lora(load_network(str(tmp_path), seed=0)[0], new, rank=2, targets="nothing")

    @pytest.mark.parametrize("lora_rank", [0, 2])
    @pytest.mark.parametrize("make", [gpt2, bart])
    def test_what_a_run_writes_is_what_it_judged_by(self, tmp_path, make, lora_rank):
        dataset = write_pairs(tmp_path / "pairs.jsonl", polite_pairs(60))
        given = {"dataset": dataset, "model": make(tmp_path / "base"), "lora_rank": lora_rank}
        given |= {"lora_targets": "all-linear"} if lora_rank and make is bart else {}
        run = runs.prepare(settings_of(given), tmp_path / "run", screen=SILENT)
        run.go()
        assert run.learner.config.max_length == 64
        assert paid_margins(tmp_path / "run", run.held_out) == pytest.approx(run.judge(), abs=1e-5)

    def test_more_tokens_than_the_model_can_read(self, tmp_path):
        dataset = write_pairs(tmp_path / "pairs.jsonl", polite_pairs(60))
        settings = settings_of({"dataset": dataset, "model": gpt2(tmp_path / "base"), "max_length": 65})
        with pytest.raises(ValueError, match=r"max_length must be in \[2, 64\] for this model, got 65"):
            runs.prepare(settings, tmp_path / "run", screen=SILENT)


def paid_margins(folder, pairs):
    """Margins by the reward `preference`."""
    score = rewards.load("preference", model=folder)
    prompts, others = [pair.prompt for pair in pairs], ([[]] * len(pairs), [{}] * len(pairs))
    chosen, rejected = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
    return score(prompts, chosen, *others) - score(prompts, rejected, *others)


def reloaded_margins(folder, pairs):
    """Margins of an ordinary classifier folder, computed text by text."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    about = json.loads((folder / "reward_model.json").read_text())

    def reward(prompt, completion):
        text = about["template"].format(prompt=prompt, completion=completion)
        inputs = tokenizer(text, truncation=True, max_length=about["max_length"], return_tensors="pt")
        with torch.inference_mode():
            return model(**inputs).logits.item()

    return [reward(pair.prompt, pair.chosen) - reward(pair.prompt, pair.rejected) for pair in pairs]


@pytest.fixture
def pairs_file(tmp_path):
    return write_pairs(tmp_path / "pairs.jsonl", polite_pairs(80))


def new_run(dataset, folder, **given):
    return runs.prepare(settings_of({"dataset": dataset} | QUICK | given), folder, screen=SILENT)


def stop_at(run, step, monkeypatch):
    """Press Ctrl-C while a run takes a step."""
    learn = run.learner._learn

    def interrupted(batch):
        if run.learner.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        learn(batch)

    monkeypatch.setattr(run.learner, "_learn", interrupted)


class TestRun:
    def test_the_folder_is_a_classifier(self, pairs_file, tmp_path):
        run = new_run(pairs_file, tmp_path / "run")
        found = run.go()
        names = {path.name for path in (tmp_path / "run").iterdir()}
        assert names == {
            *("settings.json", "metrics.jsonl", "evaluation.json", "reward_model.json"),
            *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        }
        assert reloaded_margins(tmp_path / "run", run.held_out) == pytest.approx(run.judge(), abs=1e-5)
        assert paid_margins(tmp_path / "run", run.held_out) == pytest.approx(run.judge(), abs=1e-5)
        about = json.loads((tmp_path / "run/reward_model.json").read_text())
        assert (about["template"], about["max_length"], about["seed"], about["finished"]) == (TEMPLATE, 32, 0, True)
        assert about["held_out_accuracy"] == found["right"]["reward_model"]["mean"]
        rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [1, 2]
        assert rows[-1]["held_out/accuracy"] == about["held_out_accuracy"]
        assert rows[-1]["held_out/loss"] == found["loss"]

    def test_a_folder_that_is_taken(self, pairs_file, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/mine.txt").touch()
        with pytest.raises(ValueError, match="is not empty"):
            new_run(pairs_file, tmp_path / "run")

    @pytest.mark.parametrize("step", [2, 8, 11])  # within an epoch, and at the end of one
    def test_interrupted_and_resumed_it_is_as_if_never_stopped(self, pairs_file, tmp_path, monkeypatch, step):
        whole = new_run(pairs_file, tmp_path / "whole")
        found = whole.go()
        run = new_run(pairs_file, tmp_path / "run")
        stop_at(run, step, monkeypatch)
        with pytest.raises(Interrupted, match=rf"stopped after step {step + 1} of {run.learner.total}"):
            run.go()
        assert reloaded_margins(tmp_path / "run", run.held_out) == pytest.approx(run.judge(), abs=1e-5)
        assert not json.loads((tmp_path / "run/reward_model.json").read_text())["finished"]
        again = runs.prepare_resumed(tmp_path / "run", {}, screen=SILENT)
        assert again.learner.step == step + 1
        assert again.go() == found
        assert same_weights(again.learner.model, whole.learner.model)
        for name in ("metrics.jsonl", "reward_model.json", "evaluation.json"):
            assert (tmp_path / "run" / name).read_text() == (tmp_path / "whole" / name).read_text()

    def test_what_is_killed_goes_on_from_its_last_epoch(self, pairs_file, tmp_path, monkeypatch):
        whole = new_run(pairs_file, tmp_path / "whole")
        whole.go()
        run = new_run(pairs_file, tmp_path / "run")

        def killed():
            raise MemoryError

        monkeypatch.setattr(run, "_finish", killed)
        with pytest.raises(MemoryError):
            run.go()
        again = runs.prepare_resumed(tmp_path / "run", {}, screen=SILENT)
        assert again.learner.epoch == 1
        again.go()
        assert same_weights(again.learner.model, whole.learner.model)
        assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2

    def test_a_resumed_run_keeps_its_settings_and_pairs(self, pairs_file, tmp_path, monkeypatch):
        run = new_run(pairs_file, tmp_path / "run")
        stop_at(run, 1, monkeypatch)
        with pytest.raises(Interrupted):
            run.go()
        runs.prepare_resumed(tmp_path / "run", {"epochs": 2, "model": "tiny"}, screen=SILENT)
        for name, value in (("epochs", 3), ("model", "gpt2"), ("seed", 1)):
            with pytest.raises(ValueError, match=rf"keeps its settings: --{name} is"):
                runs.prepare_resumed(tmp_path / "run", {name: value}, screen=SILENT)
        write_pairs(Path(pairs_file), polite_pairs(81))
        with pytest.raises(ValueError, match="no longer what the run"):
            runs.prepare_resumed(tmp_path / "run", {}, screen=SILENT)

    def test_nothing_to_resume(self, tmp_path):
        with pytest.raises(ValueError, match="is no run folder"):
            runs.prepare_resumed(tmp_path, {}, screen=SILENT)

    def test_a_finished_run_is_left_as_it_is(self, pairs_file, tmp_path):
        found = new_run(pairs_file, tmp_path / "run", epochs=1).go()
        before = (tmp_path / "run/model.safetensors").stat().st_mtime_ns
        assert runs.prepare_resumed(tmp_path / "run", {}, screen=SILENT).go() == found
        assert (tmp_path / "run/model.safetensors").stat().st_mtime_ns == before


class TestCommand:
    def invoke(self, *arguments):
        return CliRunner().invoke(main, ["train", "reward-model", *arguments])

    def test_it_trains_and_says_how_well(self, pairs_file, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = self.invoke("--dataset", pairs_file, "--epochs", "1", "--max-length", "32")
        assert result.exit_code == 0, result.output
        for part in ("epoch 1 of 1", "longer completion preferred", "runs/reward-model-seed0", "chosen by a hash"):
            assert part in result.output
        assert (tmp_path / "runs/reward-model-seed0/config.json").is_file()
        again = self.invoke("--output-dir", "runs/reward-model-seed0", "--resume")
        assert again.exit_code == 0
        assert "is finished" in again.output

    def test_help_lists_it(self):
        assert "reward-model" in CliRunner().invoke(main, ["train", "--help"]).output
        assert "--center-coef" in self.invoke("--help").output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "--dataset is missing"),
            (["--resume"], "--resume needs --output-dir"),
            (["--dataset", "nothing.jsonl"], "there is no file or folder nothing.jsonl"),
            (["--dataset", "x", "--learning-rate", "0"], "learning_rate must be above 0"),
            (["--dataset", "PAIRS", "--learning-rate", "1e30"], "start again with a --learning-rate below 1e+30"),
        ],
    )
    def test_mistakes_of_the_user(self, arguments, message, pairs_file, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = self.invoke(*[pairs_file if word == "PAIRS" else word for word in arguments])
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
