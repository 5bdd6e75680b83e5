"""A text ends where a stop string is complete: in single and native environments, for every actor, after restarts."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from contract_checks import MODES, native_and_sync, same
from doubles import generator, language_model
from text_doubles import TOKENIZERS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tril_gym  # noqa: F401 - registers the environments
from tril_gym.agents import BC, PPO, Actor, Guide, LMPolicy, Plan, PPOConfig, PPOPlusPlus, TextLayout, collect
from tril_gym.agents.actors.references import ReferenceTokens
from tril_gym.data import Example
from tril_gym.functional.sampling import Decoding
from tril_gym.testing.vector_steps import equal_steps
from tril_gym.utils.stop_strings import StopStrings, check_stop
from tril_gym.utils.text_codec import TextCodec
from tril_gym.utils.tokenization import decodes_bytes
from tril_gym.wrappers import WholeText

# Pieces of "##" and "é!" that end inside of a token, go over several, or are in one.
PIECES = ["<pad>", "<eos>", "a", "b", "#", "##", "b#", "#a", "!", "Ã", "©", "c", "d", "Ġ"]
EOS, A, B, HASH, TWO, B_HASH, HASH_A, BANG, E1, E2 = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
STOP = ["##", "é!"]
T = 12


def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE({piece: number for number, piece in enumerate(PIECES)}, [], ignore_merges=True))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(["<pad>", "<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


TOKENIZER = tokenizer()
KEYWORDS = {
    "dataset": [Example("ab", references=("ab##cd", "dcba", "é!", "c d")), Example("cd", references=("b#a",))],
    "tokenizer": TOKENIZER,
    "reward": "rouge_l",
    "max_prompt_length": 4,
    "max_new_tokens": T,
    "stop": STOP,
}


def envs(num_envs=6, mode="Disabled", **settings):
    return gym.make_vec("tril/CommonGen-v0", num_envs=num_envs, autoreset_mode=mode, **KEYWORDS | settings)


def decoded(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def expected_length(ids):
    """Return after how many of these tokens a text ends, the slow and obvious way."""
    for length in range(1, len(ids) + 1):
        if ids[length - 1] == EOS or any(stop in decoded(ids[:length]) for stop in STOP) or length == T:
            return length
    return None


class Script(Actor):
    """Writes given ids, whatever has been written."""

    def __init__(self, rows):
        self.rows = rows

    def start(self, texts, infos, layout):
        return _ScriptWriter([list(self.rows[row % len(self.rows)]) for row in range(len(texts))], texts.lengths)


class _ScriptWriter:
    def __init__(self, rows, begun):
        self.rows = [ids[int(start) :] for ids, start in zip(rows, begun, strict=True)]

    def next(self, draws):
        return torch.tensor([row.pop(0) for row in self.rows]), None

    def keep(self, rows):
        self.rows = [self.rows[row] for row in rows.tolist()]

    def close(self):
        pass


class TestTheStringsThemselves:
    stop = StopStrings(STOP, TOKENIZER)

    @pytest.mark.parametrize(
        ("ids", "length", "completion"),
        [
            ([A, HASH, HASH, A], 3, "a"),  # over two tokens
            ([A, HASH, A, TWO], 4, "a#a"),  # in one token, and not before
            ([A, B_HASH, HASH_A, A], 3, "ab"),  # ends inside of a token
            ([HASH, HASH], 2, ""),  # at the beginning
            ([A, E1, E2, BANG, B], 4, "a"),  # a character over two tokens
            ([HASH, 0, HASH], 3, ""),  # a special token, which no text shows, is between them
        ],
    )
    def test_where_a_text_ends(self, ids, length, completion):
        assert self.stop.cut_ids(ids) == ids[:length]
        assert [self.stop.are_in(ids[:count]) for count in range(len(ids) + 1)].index(True) == length
        assert self.stop.cut(decoded(ids[:length])) == completion

    @pytest.mark.parametrize("strings", [STOP, [" "], ["\u00e9"], ["a b", "c"], ["b#"]])
    def test_only_tokens_that_can_complete_a_string_are_looked_at(self, strings):
        """By each token from what was written before, on random texts: the same as in the whole text."""
        stop, rng = StopStrings(strings, TOKENIZER), np.random.default_rng(0)
        assert decodes_bytes(TOKENIZER)
        found = 0
        for _ in range(400):
            ids = rng.integers(2, len(PIECES), T).tolist()
            ends = [stop.end(ids[:count]) for count in range(T + 1)]
            first = next((count for count in range(T + 1) if stop.are_in(ids[:count])), T + 1)
            assert ends[:first] == [False] * first
            assert first > T or ends[first]
            found += first <= T
        assert found > 15
        assert not all(stop._completes.values())  # the control: most texts are not decoded

    def test_other_tokenizers_look_at_every_text(self):
        inner = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
        words = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
        assert not decodes_bytes(words)
        assert StopStrings(["a "], words).end([0, 1])  # completed by the token after it

    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_a_string_that_begins_with_a_space(self, name):
        """Is in the first word of a completion, whether or not the tokenizer drops that word's space."""
        tokenizer = TOKENIZERS[name]()
        ids = TextCodec(tokenizer).ids(" dog")
        assert StopStrings([" dog"], tokenizer).cut_ids([*ids, *ids]) == ids

    def test_a_text_without_one(self):
        assert not self.stop.are_in([A, HASH, B])
        assert self.stop.cut_ids([A, HASH, B]) == [A, HASH, B]
        assert self.stop.cut("a#b") == "a#b"
        assert not StopStrings((), None).are_in([HASH, HASH])

    def test_the_first_one_cuts(self):
        assert self.stop.cut("aé!b##") == "a"

    @pytest.mark.parametrize(
        ("stop", "words"),
        [
            ("", "texts that are not empty"),
            ([""], "texts that are not empty"),
            ([3], "texts that are not empty"),
            (3, "must be a text or a list"),
            (["<eos>"], r"'<eos>' is a special token.*eos_token_ids=\[1\]"),
            (["<pad>"], r"eos_token_ids=\[1, 0\]"),
            (["a\ufffd"], "stands for what is no text"),
        ],
    )
    def test_what_is_no_stop_string(self, stop, words):
        with pytest.raises(ValueError, match=words):
            check_stop(stop, TOKENIZER)

    def test_what_is_one(self):
        assert check_stop(None, TOKENIZER) == ()
        assert check_stop("##", TOKENIZER) == ("##",)
        assert check_stop(["##", "a", "##"], TOKENIZER) == ("##", "a")


class TestEnvironments:
    @pytest.mark.parametrize("mode", MODES)
    def test_native_equals_single_ones(self, mode):
        native, sync = native_and_sync("tril/CommonGen-v0", 5, mode, **KEYWORDS)
        assert equal_steps(native, sync, steps=150, seed=3, eos_prob=0.01) > 50

    def test_texts_end_where_they_should(self):
        """Of random tokens, and with the completion before the stop string."""
        found, rng, reasons = envs(1), np.random.default_rng(0), []
        for _ in range(200):
            found.reset()
            ids, ended = [], False
            while not ended:
                ids.append(int(rng.choice([A, B, HASH, TWO, B_HASH, HASH_A, BANG, E1, E2, EOS])))
                _, _, terminated, _, infos = found.step(np.array([ids[-1]]))
                ended = bool(terminated[0])
                assert ended == (expected_length(ids) == len(ids))
            completion = infos["completion"][0]
            assert decoded(ids).startswith(completion)
            assert not any(stop in completion for stop in STOP)
            reasons.append(infos["finish_reason"][0])
            stops = ids[-1] == EOS or any(stop in decoded(ids) for stop in STOP)
            assert reasons[-1] == ("stop" if stops else "length")
        assert {"stop", "length"} == set(reasons)

    @pytest.mark.parametrize("begun", [[A, HASH], [E1, E2], [E1], [B_HASH]])
    def test_a_restart_in_the_middle_of_a_string(self, begun):
        """Ends as a text that was never interrupted, in every row and alone."""
        rest = [HASH_A, BANG, E2, BANG, A, HASH, HASH, EOS]
        single = gym.make("tril/CommonGen-v0", **KEYWORDS)
        single.reset(options={"example": 0, "completion": begun})
        ends = []
        for token in rest:
            *_, terminated, _, info = single.step(token)
            if terminated:
                ends.append(info)
                break
        vector = envs(3)
        completions = np.full((3, T), -1)
        completions[1, : len(begun)] = begun
        vector.reset(options={"example": np.array([0, 0, 1]), "completion": completions})
        streams = [[A] * T, rest, [*begun, *rest]]  # the last one is not interrupted
        found = {}
        for column in range(T):
            actions = np.array([stream[min(column, len(stream) - 1)] for stream in streams])
            *_, terminated, _, infos = vector.step(actions)
            for row in np.flatnonzero(terminated):
                found[int(row)] = {key: infos[key][row] for key in ("tokens", "completion", "finish_reason")}
        whole = [*begun, *rest]
        assert (
            list(found[1]["tokens"]) == ends[0]["tokens"] == list(found[2]["tokens"]) == whole[: expected_length(whole)]
        )
        for key in ("completion", "finish_reason"):
            same(found[1][key], found[2][key])
            assert found[1][key] == ends[0][key]

    def test_a_restart_after_a_string_is_refused(self):
        with pytest.raises(ValueError, match=r"has a stop string, after which there is nothing to write: \[4, 4\]"):
            gym.make("tril/CommonGen-v0", **KEYWORDS).reset(options={"example": 0, "completion": [HASH, HASH]})

    def test_a_whole_text_ends_there(self):
        env = WholeText(gym.make("tril/CommonGen-v0", **KEYWORDS | {"stop": "##"}))
        env.reset(seed=0)
        *_, terminated, _, info = env.step("ab##cd")
        assert terminated
        assert (info["completion"].strip(), info["finish_reason"]) == ("ab", "stop")

    def test_the_reward_reads_the_text_before(self):
        found = envs(1, reward=lambda completions: [float(len(text)) for text in completions])
        found.reset()
        for token in (A, B_HASH, HASH_A):
            _, rewards, terminated, _, _ = found.step(np.array([token]))
        assert terminated[0]
        assert rewards[0] == len("ab")

    def test_without_stop_strings_a_text_goes_on(self):
        """The negative control."""
        found = envs(1, stop=None)
        assert found.metadata["text"]["stop"] == []
        found.reset()
        for token in (HASH, HASH, TWO):
            *_, terminated, _, _ = found.step(np.array([token]))
            assert not terminated[0]


def policy(family="llama", seed=0, scale=1.0):
    model = language_model(family, vocab_size=len(PIECES), seed=seed)
    model.generation_config.eos_token_id = EOS
    return LMPolicy(model, TOKENIZER)


def checked(trajectories):
    """Assert that every text ended where it should; return how many ended at a stop string."""
    stopped = 0
    for row, info in enumerate(trajectories.infos):
        ids = trajectories.texts.completion_ids(row)
        assert expected_length(ids) == len(ids)
        assert ids == list(info["tokens"])
        stopped += any(stop in decoded(ids) for stop in STOP)
    return stopped


class TestActors:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("family", ["llama", "t5"])
    def test_a_policy_writes_what_the_environment_ends(self, mode, family):
        found = envs(mode=mode)
        assert TextLayout.of(found).stop == tuple(STOP)
        texts = collect(found, Plan(rollout=policy(family)), episodes=60, generator=generator())
        assert checked(texts) > 5
        assert bool(texts.terminated.all())
        assert torch.equal(texts.wrote, texts.is_token)  # the tokens of a stop string are learned, too

    @pytest.mark.parametrize("mode", MODES)
    def test_rollins_are_continued_in_the_middle_of_a_string(self, mode):
        """The same texts with restarts and with stepped rollins."""
        rows = [[A, HASH, HASH, A], [E1, E2, BANG, A], [A, B_HASH, HASH_A, B], [A, B, EOS]]
        plan = Plan(rollout=policy(), rollin=Script(rows), rollin_prob=0.9)
        texts = collect(envs(mode=mode), plan, episodes=60, generator=generator())
        checked(texts)
        assert bool((texts.switch > 0).any())
        lengths = [expected_length(ids) for ids in rows]
        assert int(texts.switch.max()) < max(lengths)
        other = collect(envs(mode="NextStep"), plan, episodes=60, generator=generator())
        assert torch.equal(texts.tokens, other.tokens)

    def test_a_guide_that_reads_text(self):
        def finish(prompts, completions):
            return ["a##bcd" if not text else "#cd" for text in completions]

        plan = Plan(rollout=Guide.from_callable(finish), rollin=policy(), rollin_prob=0.5)
        assert checked(collect(envs(), plan, episodes=40, generator=generator())) > 20

    def test_a_guide_with_another_tokenizer(self):
        others = Tokenizer(models.BPE({piece: n for n, piece in enumerate(reversed(PIECES))}, [], ignore_merges=True))
        others.pre_tokenizer, others.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        others.add_special_tokens(["<pad>", "<eos>"])
        own = PreTrainedTokenizerFast(tokenizer_object=others, pad_token="<pad>", eos_token="<eos>")
        model = language_model("llama", vocab_size=len(PIECES), positions=64)
        model.generation_config.eos_token_id = own.eos_token_id
        guide = Guide(LMPolicy(model, own))
        layout = TextLayout.of(envs())
        assert guide.reads_text(layout)
        for plan in (Plan(rollout=guide), Plan(rollout=guide, rollin=policy(), rollin_prob=0.7)):
            assert checked(collect(envs(), plan, episodes=40, generator=generator())) > 3

    def test_references_end_where_the_environment_ends_them(self):
        tokens = ReferenceTokens(TextLayout.of(envs()))
        ids = tokens("ab##cd")
        assert decoded(ids).strip() == "ab##"
        assert ids[-1] != EOS
        assert tokens("dcba")[-1] == EOS
        plan = Plan(rollout=Guide.references())
        assert checked(collect(envs(), plan, episodes=40, generator=generator())) > 5

    def test_a_minimum_length_promises_nothing(self):
        """No EOS before T tokens, so where all texts had T tokens they would be written longest first."""
        settings = {"min_new_tokens": T}
        plan = Plan(rollout=policy(), rollin=policy(seed=1), rollin_prob=0.9)
        assert checked(collect(envs(**settings), plan, episodes=60, generator=generator())) > 5

    def test_generate_ends_as_in_the_environment(self):
        found = envs(4, dataset=KEYWORDS["dataset"][:1])
        greedy = policy().with_decoding(Decoding(greedy=True))
        for writer in (policy(seed=seed) for seed in range(4)):
            greedy = writer.with_decoding(Decoding(greedy=True))
            texts = collect(found, Plan(rollout=greedy), episodes=4, generator=generator())
            written = writer.generate(
                [info["prompt"] for info in texts.infos], max_new_tokens=T, greedy=True, stop=STOP
            )
            assert written == [info["completion"] for info in texts.infos]

    def test_generate_leaves_the_string_out(self):
        texts = policy().generate(["ab"] * 60, max_new_tokens=T, stop="##")
        plain = policy().generate(["ab"] * 60, max_new_tokens=T)
        assert all(long.partition("##")[0] == text for long, text in zip(plain, texts, strict=True))
        assert any("##" in long for long in plain)


class TestTraining:
    def test_agents_learn_and_report_ended_texts(self):
        config = PPOConfig(learning_rate=1e-3)
        for agent in (
            PPO(policy(), envs(24), config),
            BC(policy(), envs(24)),
            PPOPlusPlus(policy(), Guide(policy(seed=3)), envs(24)),
        ):
            reports = []
            agent.learn(2, callbacks=[reports.append], progress=False)
            for report in reports:
                checked(report.trajectories)
                ended = [info["finish_reason"] == "stop" for info in report.trajectories.infos]
                assert report.metrics["text/ended"] == pytest.approx(np.mean(ended))
                assert any(ended)

    def test_an_environment_without_a_tokenizer_is_refused(self):
        from doubles import foreign_envs

        found = foreign_envs(2)
        found.metadata = found.metadata | {"text": found.metadata["text"] | {"stop": ["##"]}}
        with pytest.raises(ValueError, match="stop needs a tokenizer attribute"):
            TextLayout.of(found)
