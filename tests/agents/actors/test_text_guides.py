"""Guides that meet the policy as text: what they are told, what becomes of their answer, which characters stay."""

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from doubles import foreign_envs, generator, language_model, same
from gymnasium.vector import VectorEnv
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    AggreVaTeD,
    AggreVaTeDConfig,
    Guide,
    LMPolicy,
    Plan,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    TextLayout,
    Trajectories,
)
from tril_gym.agents.actors import text_guide as module
from tril_gym.agents.collection.collector import EpisodeRandomness, collect, switch_points
from tril_gym.cli import main
from tril_gym.data import Example
from tril_gym.models.text_codec import TextCodec
from tril_gym.models.texts import Texts

SENTENCES = [
    "the dog runs in the park.", "dogs bark at cats, and cats run.", "a running man sits.", "The park is for dogs!",
    "doggedly going on and on", "a cat sat on the mat - or not?", "concepts: dog park. sentence:",
]  # fmt: skip
EXAMPLES = [
    Example(f"concepts: {' '.join(words)}. sentence:", (f"the {words[0]} sits.",))
    for words in (["dog", "park"], ["cat", "mat", "sit"], ["man", "run"], ["dog", "bark", "cat", "man"], ["cats"])
]
NAMES = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False}


def byte_tokenizer(merges: int = 40) -> Any:
    """Byte-level BPE as of GPT-2. Without merges a token is a byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 3 + merges,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def metaspace_tokenizer(model: str = "unigram", scheme: str = "always") -> Any:
    """Pieces with word marks and an EOS after every prompt, as of T5 (unigram); Llama's are merges (bpe)."""
    special = {"special_tokens": ["<pad>", "</s>", "<unk>"], "show_progress": False}
    if model == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=90, unk_token="<unk>", **special)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        trainer = trainers.BpeTrainer(vocab_size=110, **special)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "unigram": metaspace_tokenizer,
    "unigram-first": lambda: metaspace_tokenizer(scheme="first"),
    "merges": lambda: metaspace_tokenizer("bpe"),
}


def text_envs(tokenizer: Any, num_envs: int = 8, mode: str = "Disabled", **settings: Any) -> VectorEnv:
    settings = {"max_prompt_length": 60, "max_new_tokens": 30, "reward": None} | settings
    return gym.make_vec(
        "tril/CommonGen-v0",
        num_envs=num_envs,
        autoreset_mode=mode,
        dataset=EXAMPLES,
        tokenizer=tokenizer,
        **settings,
    )


def model_of(tokenizer: Any, family: str = "gpt2", *, seed: int = 0, **settings: Any) -> LMPolicy:
    """A small random policy in float64, so that rounding in batches of different size decides no token."""
    settings = {"positions": 200, "dtype": torch.float64} | settings
    return LMPolicy(language_model(family, vocab_size=len(tokenizer), seed=seed, **settings), tokenizer)


class Says:
    """A callable guide that remembers what it was asked; answers by the number of words that stand already."""

    def __init__(self, answers: Sequence[str] = ("The dog runs.",)) -> None:
        self.answers = answers
        self.asked: list[tuple[list[str], list[str]]] = []

    def __call__(self, prompts: list[str], completions: list[str]) -> list[str]:
        self.asked.append((prompts, completions))
        return [self.answer(completion) for completion in completions]

    def answer(self, completion: str) -> str:
        return self.answers[len(completion) % len(self.answers)]


class Dictates:
    """An actor that writes given tokens, one list for every text of a batch in turn, from wherever it takes them up."""

    def __init__(self, texts: Sequence[list[int]]) -> None:
        self.texts = texts

    def start(self, texts: Texts, infos: Any, layout: TextLayout) -> "DictatesWriter":
        begun = texts.lengths.tolist()
        return DictatesWriter([self.texts[row % len(self.texts)][n:] for row, n in enumerate(begun)])


class DictatesWriter:
    def __init__(self, texts: list[list[int]]) -> None:
        self.texts, self.column = texts, 0

    def next(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        self.column += 1
        tokens = torch.tensor([text[self.column - 1] for text in self.texts])
        return tokens, torch.full(tokens.shape, -0.5)

    def keep(self, rows: Tensor) -> None:
        self.texts = [self.texts[row] for row in rows.tolist()]

    def close(self) -> None:
        pass


def write(envs: VectorEnv, plan: Plan, episodes: int = 8, seed: int = 1) -> Trajectories:
    return collect(envs, plan, episodes=episodes, generator=generator(seed))


def completions(trajectories: Trajectories) -> list[str]:
    return [info["completion"] for info in trajectories.infos]


def ids_of(trajectories: Trajectories) -> list[list[int]]:
    rows = zip(trajectories.tokens.tolist(), trajectories.lengths.tolist(), strict=True)
    return [tokens[:length] for tokens, length in rows]


def encoded(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


class TestWhatAFunctionIsAskedAndWhatBecomesOfItsAnswer:
    def test_it_writes_whole_texts(self):
        tokenizer, says = byte_tokenizer(), Says()
        trajectories = write(text_envs(tokenizer), Plan(rollout=Guide.from_callable(says)), episodes=12)
        # Twice: a wave of eight, and one of four. Nothing stands yet.
        assert [(len(prompts), set(begun)) for prompts, begun in says.asked] == [(8, {""}), (4, {""})]
        assert says.asked[0][0] + says.asked[1][0] == [info["prompt"] for info in trajectories.infos]
        assert len(set(says.asked[0][0])) > 2
        # As references are: behind a space, and then EOS.
        assert ids_of(trajectories) == [[*encoded(tokenizer, " The dog runs."), 1]] * 12
        assert completions(trajectories) == [" The dog runs."] * 12
        assert {info["finish_reason"] for info in trajectories.infos} == {"stop"}

    @pytest.mark.parametrize("mode", ["Disabled", "NextStep", "SameStep"])
    def test_it_rolls_in(self, mode):
        tokenizer = byte_tokenizer()
        long, whole = encoded(tokenizer, "x" * 30), [*encoded(tokenizer, " The dog runs."), 1]
        policy = Dictates([[*long[:14], 1]])
        plan = Plan(rollout=policy, rollin=Guide.from_callable(Says()), rollin_prob=0.7)
        trajectories = write(text_envs(tokenizer, mode=mode), plan, episodes=40)
        switches = trajectories.switch.tolist()
        assert len(set(switches)) > 5
        assert max(switches) < len(whole)
        assert ids_of(trajectories) == [[*whole[:h], *long[h:14], 1] for h in switches]
        expected = torch.where(trajectories.is_rollout, -0.5, 0.0).double()
        assert torch.equal(trajectories.old_logprobs, expected)

    @pytest.mark.parametrize("mode", ["Disabled", "NextStep", "SameStep"])
    def test_it_rolls_out_from_wherever_the_policy_stopped(self, mode):
        tokenizer, says = byte_tokenizer(), Says(["g on.", " runs.", "ly!"])
        whole = encoded(tokenizer, " the dog in the park is for dogs")
        envs = text_envs(tokenizer, mode=mode, max_new_tokens=60)
        plan = Plan(rollout=Guide.from_callable(says), rollin=Dictates([[*whole, 1]]), rollin_prob=0.7)
        trajectories = write(envs, plan, episodes=40)
        begun = [tokenizer.decode(whole[:h]) for h in trajectories.switch.tolist()]
        assert [text for _, texts in says.asked for text in texts] == begun
        assert len({len(text) for text in begun}) > 5
        for text, found in zip(begun, completions(trajectories), strict=True):
            answer = says.answer(text)
            assert found == text + (answer if text else f" {answer}")

    def test_a_text_that_is_too_long_is_cut_and_has_no_eos(self):
        tokenizer = byte_tokenizer()
        whole = encoded(tokenizer, " The dog runs.")
        for room in (len(whole) - 2, len(whole), len(whole) + 1):
            envs = text_envs(tokenizer, max_new_tokens=room)
            trajectories = write(envs, Plan(rollout=Guide.from_callable(Says())))
            assert ids_of(trajectories)[0] == [*whole, 1][:room]
        rollin = Dictates([[*encoded(tokenizer, " dogs in the park"), 1]])
        envs = text_envs(tokenizer, max_new_tokens=12)
        plan = Plan(rollout=Guide.from_callable(Says(["x" * 99])), rollin=rollin, rollin_prob=1.0)
        trajectories = write(envs, plan)
        assert trajectories.lengths.tolist() == [12] * 8
        assert len(trajectories.switch.unique()) > 2

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            ("dog", " dog"),
            (" dog", " dog"),
            ("", ""),
            ("dog</s> cat", " dog"),
            ("</s>", ""),
            ("dog <pad> cat", " dog <pad> cat"),
            ("dog\ncat", " dog\ncat"),
            ("né 😀", " né 😀"),
        ],
    )
    def test_the_text_is_said_as_it_came(self, answer, said):
        tokenizer = byte_tokenizer()
        trajectories = write(text_envs(tokenizer), Plan(rollout=Guide.from_callable(Says([answer]))))
        assert completions(trajectories)[0] == said
        ids = ids_of(trajectories)[0]
        assert ids.index(1) == len(ids) - 1
        assert 0 not in ids

    def test_a_prompt_that_the_environment_does_not_tell_is_decoded(self):
        tokenizer, says = metaspace_tokenizer(), Says()
        layout = TextLayout.of(text_envs(tokenizer))
        ids = encoded(tokenizer, "the dog")
        texts = Texts.from_ids([[*ids, 1], [*ids, 1]], [[], []], max_new_tokens=layout.max_new_tokens)
        guide = Guide.from_callable(says)
        guide.start(texts, [{}, {"prompt": "told"}], layout).next(torch.zeros(2))
        assert says.asked == [(["the dog", "told"], ["", ""])]

    def test_rows_that_leave(self):
        """Before the first token they are not asked for, after it they change nobody else's."""
        tokenizer = byte_tokenizer(merges=0)
        layout = TextLayout.of(text_envs(tokenizer))
        begun = [encoded(tokenizer, "x" * (row + 1)) for row in range(4)]
        texts = Texts.from_ids([[0]] * 4, begun, max_new_tokens=layout.max_new_tokens)
        infos = [{"prompt": f"p{row}"} for row in range(4)]
        says = Says(["abcd", "efgh", "ijkl", "mnop"])
        writer = Guide.from_callable(says).start(texts, infos, layout)
        writer.keep(torch.tensor([0, 2, 3]))
        columns = [writer.next(torch.zeros(3))[0]]
        writer.keep(torch.tensor([0, 2]))
        columns += [writer.next(torch.zeros(2))[0], writer.next(torch.zeros(2))[0]]
        writer.close()
        assert says.asked == [(["p0", "p2", "p3"], ["x", "xxx", "xxxx"])]
        assert [tokenizer.decode(column) for column in columns] == ["ema", "fb", "gc"]

    def test_the_same_texts_for_any_number_of_rows(self):
        tokenizer = byte_tokenizer()
        policy = model_of(tokenizer)
        plan = Plan(rollout=Guide.from_callable(Says(["g on.", " runs."])), rollin=policy, rollin_prob=0.6)
        wide, narrow = (write(text_envs(tokenizer, rows), plan, episodes=16) for rows in (16, 5))
        assert same(wide, narrow)


class TestAFunctionThatFails:
    @pytest.fixture
    def slept(self, monkeypatch) -> list[float]:
        seconds: list[float] = []
        monkeypatch.setattr(module.time, "sleep", seconds.append)
        return seconds

    @pytest.fixture
    def fails(self):
        """A function that raises so many times before it answers."""

        def make(times: int, error: type[BaseException] = OSError) -> Any:
            def service(prompts: list[str], completions: list[str]) -> list[str]:
                service.calls += 1
                if service.calls <= times:
                    raise error("no line")
                return ["dog"] * len(prompts)

            service.calls = 0
            return service

        return make

    def test_it_is_called_again(self, fails, slept, caplog):
        service = fails(2)
        with caplog.at_level(logging.WARNING, logger="tril_gym"):
            trajectories = write(text_envs(byte_tokenizer()), Plan(rollout=Guide.from_callable(service)))
        assert completions(trajectories) == [" dog"] * 8
        assert service.calls == 3
        assert slept == [1.0, 2.0]
        assert len(caplog.records) == 2
        for words in ("service", "OSError: no line", "again in 1 s"):
            assert words in caplog.records[0].message

    def test_until_it_is_too_much(self, fails, slept):
        service = fails(4)
        plan = Plan(rollout=Guide.from_callable(service, retries=3, pause=0.5))
        with pytest.raises(RuntimeError, match=r"service raised OSError: no line \(attempt 4 of 4, .* 8 texts\)") as it:
            write(text_envs(byte_tokenizer()), plan)
        assert "retries=" in str(it.value)
        assert isinstance(it.value.__cause__, OSError)
        assert service.calls == 4
        assert slept == [0.5, 1.0, 2.0]

    def test_or_never_again(self, fails, slept):
        service = fails(1)
        with pytest.raises(RuntimeError, match="attempt 1 of 1"):
            write(text_envs(byte_tokenizer()), Plan(rollout=Guide.from_callable(service, retries=0)))
        assert (service.calls, slept) == (1, [])

    def test_ctrl_c_is_no_failure(self, fails, slept):
        service = fails(1, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            write(text_envs(byte_tokenizer()), Plan(rollout=Guide.from_callable(service)))
        assert (service.calls, slept) == (1, [])

    @pytest.mark.parametrize(
        ("found", "error", "words"),
        [
            (["dog"] * 7, ValueError, "one string per text, 8 in all, got 7"),
            ("dogs dog", TypeError, "a list of 8 strings, got 'dogs dog'"),
            (None, TypeError, "a list of 8 strings, got None"),
            ({str(row): "dog" for row in range(8)}, TypeError, "a list of 8 strings, got {'0'"),
            (["dog"] * 7 + [None], TypeError, "must return strings, got None as text 7"),
            ([b"dog"] * 8, TypeError, "must return strings, got b'dog' as text 0"),
        ],
    )
    def test_what_is_no_answer_is_refused_at_once(self, found, error, words, slept):
        calls = []

        def service(prompts: list[str], completions: list[str]) -> Any:
            calls.append(len(prompts))
            return found

        with pytest.raises(error, match=rf"service must return.*{words}|{words}"):
            write(text_envs(byte_tokenizer()), Plan(rollout=Guide.from_callable(service)))
        assert calls == [8]
        assert slept == []

    def test_nonsense_is_refused_at_the_door(self):
        with pytest.raises(TypeError, match=r"is a function of prompts and completions, got 'dog'"):
            Guide.from_callable("dog")
        with pytest.raises(ValueError, match="retries must not be negative, got -1"):
            Guide.from_callable(Says(), retries=-1)
        with pytest.raises(ValueError, match="pause must not be negative, got -1"):
            Guide.from_callable(Says(), pause=-1)

    def test_an_environment_without_tokenizer_is_refused_at_the_door(self):
        policy = LMPolicy(language_model("gpt2"), None)
        with pytest.raises(ValueError, match="the environment shows no tokenizer"):
            PPOPlusPlus(policy, Guide.from_callable(Says()), foreign_envs(4), PPOPlusPlusConfig())

    def test_a_bare_function_is_no_guide(self):
        tokenizer = byte_tokenizer()
        with pytest.raises(TypeError, match=r"Guide\.from_callable\(f\)"):
            PPOPlusPlus(model_of(tokenizer), Says(), text_envs(tokenizer), PPOPlusPlusConfig())


ACCENTS = "né 😀a €😀"


class TestCharactersStayWhole:
    """The policy writes bytes; a switch may fall between two of one character."""

    @staticmethod
    def plan(rollout: Any, ids: list[int], **settings: Any) -> Plan:
        return Plan(rollout=rollout, rollin=Dictates([ids]), rollin_prob=1.0, learn_on="rollin", **settings)

    @pytest.mark.parametrize("mode", ["Disabled", "NextStep"])
    def test_a_switch_within_a_character_moves_to_its_start(self, mode):
        tokenizer = byte_tokenizer(merges=0)
        ids = encoded(tokenizer, ACCENTS)
        assert len(ids) == len(ACCENTS.encode())
        envs, says = text_envs(tokenizer, mode=mode), Says(["!"])
        moved = write(envs, self.plan(Guide.from_callable(says), [*ids, 1]), episodes=64)
        token = write(envs, self.plan(Dictates([[*ids, 1]]), [*ids, 1]), episodes=64)  # control: a guide on tokens

        # Bytes before each character, by hand: n é ␣ 😀 a ␣ € 😀 are 1 2 1 4 1 1 3 4 bytes.
        starts = [0, 1, 3, 4, 8, 9, 10, 13, 17]
        expected = [max(start for start in starts if start <= h) for h in token.switch.tolist()]
        assert moved.switch.tolist() == expected
        assert not torch.equal(moved.switch, token.switch)
        assert set(token.switch.tolist()) - set(starts)  # the control does cut characters

        assert [text for _, texts in says.asked for text in texts] == [ACCENTS.encode()[:h].decode() for h in expected]
        assert [text.rstrip("!") for text in completions(moved)] == [ACCENTS.encode()[:h].decode() for h in expected]
        columns = torch.arange(30)
        assert torch.equal(moved.is_rollin, columns < moved.switch.unsqueeze(1))
        assert torch.equal(moved.old_logprobs, torch.where(moved.is_rollin, -0.5, 0.0).double())

    def test_a_text_that_begins_with_a_cut_character_has_no_rollin(self):
        tokenizer = byte_tokenizer(merges=0)
        ids = encoded(tokenizer, "😀")
        says = Says(["dog"])
        trajectories = write(text_envs(tokenizer), self.plan(Guide.from_callable(says), [*ids, 1]), episodes=32)
        assert set(trajectories.switch.tolist()) == {0, 4}
        assert not trajectories.is_rollin[trajectories.switch == 0].any()
        assert set(completions(trajectories)) == {" dog", "😀dog"}

    def test_bytes_that_are_no_character_are_not_waited_for(self):
        """The rest of the text does not make them one, so there is nothing to keep whole."""
        tokenizer = byte_tokenizer(merges=0)
        first, *_, last = encoded(tokenizer, "😀")
        x = encoded(tokenizer, "x")[0]
        garbage = [x, first, x, last, last, x, first]
        envs = text_envs(tokenizer)
        text, token = (
            write(envs, self.plan(guide, [*garbage, 1]), episodes=32)
            for guide in (Guide.from_callable(Says(["!"])), Dictates([[*garbage, 1]]))
        )
        assert torch.equal(text.switch, token.switch)
        assert len(text.switch.unique()) == 7

    def test_merges_that_begin_in_one_character_and_end_in_another(self):
        tokenizer = byte_tokenizer()
        spelling = TextCodec(tokenizer)
        byte = {character: encoded(tokenizer, character) for character in " é"}
        ids = [*byte[" "], *byte["é"], *byte[" "]]
        assert len(byte["é"]) == 2
        assert [spelling.character_start(ids, end) for end in range(5)] == [0, 1, 1, 3, 4]

    def test_a_rollin_that_finished_its_text_stays(self):
        tokenizer = byte_tokenizer(merges=0)
        ids = [*encoded(tokenizer, "n😀"), 1]
        plan = self.plan(Guide.from_callable(Says(["!"])), ids, allow_full_rollins=True)
        trajectories = write(text_envs(tokenizer), plan, episodes=32)
        assert set(trajectories.switch.tolist()) == {1, 5, 6}
        assert set(completions(trajectories)) == {"n!", "n😀!", "n😀"}

    def test_the_switch_of_a_rollin_of_length_n_is_where_the_draw_says(self):
        """What the tests above call unmoved is the plain rule of `switch_points`."""
        tokenizer = byte_tokenizer(merges=0)
        ids = [*encoded(tokenizer, ACCENTS), 1]
        token = write(text_envs(tokenizer), self.plan(Dictates([ids]), ids), episodes=8)
        draws = EpisodeRandomness.draw(8, 30, generator(1)).switch.numpy()
        assert token.switch.tolist() == switch_points(np.full(8, len(ids)), draws).tolist()


class TestSpelling:
    """Text is cut anywhere and put together again."""

    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_both_parts_together_say_the_whole_text(self, name):
        tokenizer = TOKENIZERS[name]()
        spelling = TextCodec(tokenizer)
        for sentence in SENTENCES:
            for place in range(1, len(sentence)):
                begun = spelling.ids(f" {sentence[:place]}")
                rest = spelling.ids(sentence[place:], after=begun)
                assert tokenizer.decode(begun + rest) == tokenizer.decode(begun) + sentence[place:]
                assert spelling.text(begun + rest) == f" {sentence}"

    def test_a_plain_encoding_would_not(self):
        """Control: within a word a word mark would be one too many."""
        tokenizer = metaspace_tokenizer()
        begun = encoded(tokenizer, " the do")
        assert tokenizer.decode(begun + encoded(tokenizer, "g runs")) == "the do g runs"
        assert tokenizer.decode(begun + TextCodec(tokenizer).ids("g runs", after=begun)) == "the dog runs"

    @pytest.mark.parametrize("name", ["unigram", "merges"])
    def test_what_the_vocabulary_cannot_say_keeps_its_seam(self, name):
        tokenizer = TOKENIZERS[name]()
        spelling = TextCodec(tokenizer)
        begun = encoded(tokenizer, " the do")
        unknown = tokenizer.unk_token_id
        assert spelling.ids("ß runs", after=begun)[0] == unknown
        assert spelling.ids(" ß runs", after=begun)[:2] == [tokenizer.convert_tokens_to_ids("▁"), unknown]

    def test_ids_that_only_the_model_has_say_nothing(self):
        tokenizer = byte_tokenizer()
        dog = encoded(tokenizer, " dog")
        assert TextCodec(tokenizer).text([len(tokenizer) + 5, *dog, 0]) == " dog"

    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_begun_texts_go_on_in_the_environment(self, name):
        """The policy writes pieces, the guide sees the text behind its prompt, the joined text is what both said."""
        tokenizer, says = TOKENIZERS[name](), Says(["ing.", " on.", ", and on."])
        whole = encoded(tokenizer, " the dog runs in the park")
        plan = Plan(rollout=Guide.from_callable(says), rollin=Dictates([[*whole, 1]]), rollin_prob=0.8)
        trajectories = write(text_envs(tokenizer, max_new_tokens=60), plan, episodes=32)
        begun = [text for _, texts in says.asked for text in texts]
        assert {text[:1] for text in begun} == {"", " "}
        assert len(set(begun)) > 5
        for text, found in zip(begun, completions(trajectories), strict=True):
            said = text + says.answer(text) if text else f" {says.answer(text)}"
            assert found == (said if name == "bytes" else said.removeprefix(" "))


def greedy(guide: LMPolicy, prompt: str, begun: str = "") -> str:
    """What a model says with `transformers`' own generation, one text at a time."""
    prompt_ids = guide.tokenizer(prompt)["input_ids"]
    begun_ids = encoded(guide.tokenizer, begun) if begun else []
    settings = {"do_sample": False, "eos_token_id": 1, "pad_token_id": 0}
    if guide.model.config.is_encoder_decoder:
        inputs = {"input_ids": torch.tensor([prompt_ids]), "decoder_input_ids": torch.tensor([[0, *begun_ids]])}
        skip = 1
    else:
        inputs = {"input_ids": torch.tensor([prompt_ids + begun_ids])}
        skip = len(prompt_ids)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    [ids] = guide.model.generate(**inputs, **settings, max_new_tokens=60 - len(begun_ids))
    spelling = TextCodec(guide.tokenizer)
    return spelling.text(ids[skip:].tolist()).removeprefix(spelling.text(begun_ids))


class TestAModelWithAnotherTokenizer:
    @pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
    def test_it_says_what_it_says_by_itself(self, family):
        """Oracle: `generate` of transformers, on the prompt as the guide's own tokenizer has it."""
        guide = model_of(metaspace_tokenizer(), family, seed=3)
        envs = text_envs(byte_tokenizer())
        trajectories = write(envs, Plan(rollout=Guide(guide, top_k=1)))
        texts = completions(trajectories)
        assert len(set(texts)) > 1
        for info, text in zip(trajectories.infos, texts, strict=True):
            said = greedy(guide, info["prompt"])
            said = said if said.startswith(" ") else f" {said}"
            # What does not fit is cut, maybe within a character.
            assert text == said if info["finish_reason"] == "stop" else said.startswith(text.rstrip("\ufffd"))

    def test_it_goes_on_where_the_policy_stopped(self):
        guide, tokenizer = model_of(metaspace_tokenizer(), seed=3), byte_tokenizer()
        rollin = Dictates([[*encoded(tokenizer, " the dog runs"), 1]])
        plan = Plan(rollout=Guide(guide, top_k=1), rollin=rollin, rollin_prob=1.0, learn_on="rollin")
        trajectories = write(text_envs(tokenizer), plan, episodes=16)
        assert len(trajectories.switch.unique()) > 3
        for info, ids, h in zip(trajectories.infos, ids_of(trajectories), trajectories.switch.tolist(), strict=True):
            begun = tokenizer.decode(ids[:h])
            said = begun + greedy(guide, info["prompt"], begun)
            text = info["completion"].rstrip("\ufffd")
            assert text == said if info["finish_reason"] == "stop" else said.startswith(text)

    @pytest.mark.parametrize("family", ["gpt2", "t5"])
    def test_the_same_texts_for_any_number_of_rows(self, family):
        tokenizer = byte_tokenizer()
        guide = Guide(model_of(metaspace_tokenizer(), family, seed=3), temperature=1.5, top_p=0.95)
        policy = model_of(tokenizer)
        for plan in (
            Plan(rollout=policy, rollin=guide, rollin_prob=0.7),
            Plan(rollout=guide, rollin=policy, rollin_prob=0.7, learn_on="rollin"),
        ):
            wide, narrow = (write(text_envs(tokenizer, rows), plan, episodes=16) for rows in (16, 3))
            assert same(wide, narrow)
        other = write(text_envs(tokenizer, 16), plan, episodes=16, seed=2)
        assert completions(other) != completions(wide)  # control: it does draw

    def test_global_generators_are_left_alone(self):
        guide = Guide(model_of(metaspace_tokenizer(), seed=3))
        before = torch.get_rng_state()
        write(text_envs(byte_tokenizer()), Plan(rollout=guide))
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("owner", ["the environment's", "its own"])
    def test_it_keeps_a_least_length(self, owner):
        model = model_of(metaspace_tokenizer(), seed=3)
        shortest = []
        for least in (0, 9):
            guide = Guide(model, temperature=3.0, min_new_tokens=least if owner == "its own" else None)
            settings = {"min_new_tokens": least} if owner == "the environment's" else {}
            texts = completions(write(text_envs(byte_tokenizer(), 32, **settings), Plan(rollout=guide), episodes=64))
            shortest.append(min(len(encoded(model.tokenizer, text)) for text in texts))
        # (A text may be written in fewer pieces than it came in, so nine may have become eight.)
        assert shortest[0] < 8 <= shortest[1]

    def test_all_that_ends_its_texts(self):
        """A model may have several EOS, of which some are words to its tokenizer; none is part of a text."""
        model = model_of(byte_tokenizer(merges=0), seed=3)
        [s] = encoded(model.tokenizer, "s")
        seen = []
        for eos in (1, [1, s]):
            model.model.generation_config.eos_token_id = eos
            texts = completions(write(text_envs(byte_tokenizer(), 32), Plan(rollout=Guide(model, temperature=3.0)), 64))
            seen.append(any("s" in text for text in texts))
        assert seen == [True, False]

    @pytest.mark.parametrize("kind", ["ppo-pp", "aggrevated"])
    def test_it_helps_to_train_and_stays_as_it_is(self, kind):
        tokenizer = byte_tokenizer()
        policy, guide = model_of(tokenizer, dtype=torch.float32), model_of(metaspace_tokenizer(), "t5", seed=3)
        weights = [tensor.clone() for tensor in guide.model.state_dict().values()]
        numbers = {"learning_rate": 1e-3, "minibatch_size": 4, "rollin_prob": 0.7}
        envs = text_envs(tokenizer, reward="rouge_l")
        if kind == "ppo-pp":
            agent = PPOPlusPlus(policy, Guide(guide), envs, PPOPlusPlusConfig(**numbers), seed=0)
        else:
            agent = AggreVaTeD(policy, Guide(guide), envs, AggreVaTeDConfig(**numbers), seed=0)
        before = [tensor.clone() for tensor in policy.model.state_dict().values()]
        agent.learn(2)
        assert all(map(torch.equal, weights, guide.model.state_dict().values()))
        assert not all(map(torch.equal, before, policy.model.state_dict().values()))

    def test_a_t5_policy_with_a_gpt2_guide(self):
        """Two kinds of models and of vocabularies."""
        tokenizer = metaspace_tokenizer()
        policy, guide = model_of(tokenizer, "t5"), model_of(byte_tokenizer(), seed=3)
        envs = text_envs(tokenizer)
        plan = Plan(rollout=policy, rollin=Guide(guide, top_k=1), rollin_prob=1.0)
        trajectories = write(envs, plan, episodes=16)
        assert len(trajectories.switch.unique()) > 2
        for info, ids, h in zip(trajectories.infos, ids_of(trajectories), trajectories.switch.tolist(), strict=True):
            said = greedy(guide, info["prompt"])
            whole = encoded(tokenizer, said if said.startswith(" ") else f" {said}")
            assert ids[:h] == whole[:h]
        PPOPlusPlus(policy, Guide(guide), text_envs(tokenizer, reward="rouge_l"), PPOPlusPlusConfig()).learn(1)

    def test_a_model_in_the_policys_own_vocabulary_writes_tokens(self):
        layout = TextLayout.of(text_envs(byte_tokenizer()))
        assert not Guide(model_of(byte_tokenizer())).reads_text(layout)  # an equal tokenizer, not the same one
        assert Guide(model_of(byte_tokenizer(merges=39))).reads_text(layout)
        assert not Guide(LMPolicy(language_model("gpt2"), None)).reads_text(layout)

    def test_more_logits_than_tokens_is_not_another_vocabulary(self):
        tokenizer = byte_tokenizer()
        wide = LMPolicy(language_model("gpt2", vocab_size=len(tokenizer) + 5, positions=200), tokenizer)
        with pytest.raises(ValueError, match=r"the guide does not fit .* logits, the environment"):
            PPOPlusPlus(model_of(tokenizer), Guide(wide), text_envs(tokenizer), PPOPlusPlusConfig())

    def test_it_needs_room_for_prompt_and_completion(self):
        tokenizer = byte_tokenizer()
        settings = {"max_prompt_length": 60, "max_new_tokens": 30}
        for positions, fits in ((89, False), (90, True)):
            guide = Guide(model_of(metaspace_tokenizer(), positions=positions))
            layout = TextLayout.of(text_envs(tokenizer, **settings))
            if fits:
                guide.check(layout)
            else:
                with pytest.raises(ValueError, match=r"the guide does not fit .* 89 positions"):
                    guide.check(layout)

    def test_it_makes_do_with_the_room_that_it_has(self):
        """50 positions, 20 of which are for new tokens: a prompt of more than 30 is cut, and nobody fails."""
        tokenizer = metaspace_tokenizer()
        guide = model_of(byte_tokenizer(merges=0), positions=50, seed=3)
        envs = text_envs(tokenizer, max_prompt_length=20, max_new_tokens=10)
        assert max(len(encoded(guide.tokenizer, example.prompt)) for example in EXAMPLES) > 30
        rollin = Dictates([[*encoded(tokenizer, " the dog runs"), 1]])
        for plan in (Plan(rollout=Guide(guide)), Plan(rollout=Guide(guide), rollin=rollin, rollin_prob=1.0)):
            assert len(write(envs, plan)) == 8

    def test_it_needs_an_eos(self):
        guide = model_of(metaspace_tokenizer())
        guide.model.generation_config.eos_token_id = None
        Guide(guide).check(TextLayout.of(text_envs(byte_tokenizer())))  # its tokenizer says it
        guide.model.generation_config.eos_token_id = 50_256
        with pytest.raises(ValueError, match=r"names no EOS among its \d+ tokens, got 50256"):
            Guide(guide).check(TextLayout.of(text_envs(byte_tokenizer())))


class TestSaving:
    def test_a_model_comes_back_with_its_own_tokenizer(self, tmp_path):
        tokenizer = byte_tokenizer()
        guide = Guide(model_of(metaspace_tokenizer(), "t5", seed=3), top_p=0.9, min_new_tokens=2)
        numbers = PPOPlusPlusConfig(rollin_prob=0.7, minibatch_size=4)
        envs = text_envs(tokenizer, reward="rouge_l")
        straight = PPOPlusPlus(model_of(tokenizer), guide, envs, numbers, seed=0).learn(2)
        stopped = PPOPlusPlus(model_of(tokenizer), guide, envs, numbers, seed=0).learn(1)
        stopped.save(tmp_path)
        again = PPOPlusPlus.load(tmp_path, envs=envs)
        assert again.guide.reads_text(again.layout)
        assert again.guide.policy.tokenizer.get_vocab() == guide.policy.tokenizer.get_vocab()
        assert again.guide.settings() == guide.settings()
        again.learn(1)
        pairs = zip(straight.policy.model.state_dict().values(), again.policy.model.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)

    def test_a_function_is_handed_over_again(self, tmp_path):
        tokenizer = byte_tokenizer()
        envs = text_envs(tokenizer, reward="rouge_l")
        guide = Guide.from_callable(Says())
        PPOPlusPlus(model_of(tokenizer), guide, envs, PPOPlusPlusConfig()).save(tmp_path)
        with pytest.raises(ValueError, match=r"could not be saved; pass it: load\(..., guide=...\)"):
            PPOPlusPlus.load(tmp_path, envs=envs)
        assert PPOPlusPlus.load(tmp_path, envs=envs, guide=guide).guide is guide


MINE = """
asked = []
constant = 3

def name_the_concepts(prompts, completions):
    asked.append(len(prompts))
    return [" and ".join(prompt.split(":")[1].split(".")[0].split()) for prompt in prompts]
"""


class TestCommandLine:
    SMALL = ("--tiny-samples", "64", "--num-envs", "8", "--eval-examples", "8", "--iterations", "2")

    @pytest.fixture
    def here(self, tmp_path, monkeypatch):
        """A folder with a module in it, and a Python path without the current folder, as a console script has it."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
        (tmp_path / "my_guides.py").write_text(MINE)
        yield tmp_path
        for name in ("my_guides", "my_envs"):
            sys.modules.pop(name, None)

    @staticmethod
    def call(*arguments: Any, code: int = 0) -> str:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    @staticmethod
    def figures(folder: Any) -> list[dict[str, float]]:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{key: it for key, it in row.items() if not key.startswith(("time/", "tokens_per"))} for row in rows]

    def test_a_run_its_resumption_and_its_evaluation(self, here):
        guide = ("--guide", "my_guides:name_the_concepts")
        self.call("train", "ppo-pp", *guide, *self.SMALL, "--output-dir", "whole")
        import my_guides

        begun = sum(row["rollin/share"] * 8 for row in self.figures(here / "whole"))
        assert sum(my_guides.asked) >= begun > 0  # a text of which nothing is left has no rollin
        self.call("train", "ppo-pp", *guide, *self.SMALL, "--output-dir", "parts", "--iterations", 1)
        self.call("train", "ppo-pp", "--output-dir", "parts", "--resume", "--iterations", 2)
        assert self.figures(here / "parts") == self.figures(here / "whole")
        # An evaluation needs no guide, a resumed run does.
        (here / "my_guides.py").unlink()
        del sys.modules["my_guides"]
        self.call("evaluate", "whole", "--examples", 4)
        text = self.call("train", "ppo-pp", "--output-dir", "whole", "--resume", "--iterations", 3, code=2)
        assert "no such module" in text

    @pytest.mark.parametrize(
        ("guide", "words"),
        [
            ("no_such_module:f", ["no_such_module:f", "no such module"]),
            ("my_guides:nothing", ["no function of the name nothing", "my_guides.py"]),
            ("my_guides:constant", ["constant in", "is not a function"]),
            ("my_guides.deeper:f", ["my_guides.deeper:f", "not a package"]),
            ("no/such:f", ["no language model could be loaded as 'no/such:f'"]),
        ],
    )
    def test_mistakes(self, here, guide, words):
        text = self.call("train", "ppo-pp", "--guide", guide, *self.SMALL, code=2)
        assert all(word in " ".join(text.split()) for word in words), text
        assert "Traceback" not in text
        assert [path.name for path in here.iterdir() if path.name not in ("my_guides.py", "__pycache__")] == []

    def test_a_folder_of_that_name_is_a_model(self, here):
        (here / "my_guides:name_the_concepts").mkdir()
        text = self.call("train", "ppo-pp", "--guide", "my_guides:name_the_concepts", *self.SMALL, code=2)
        assert "no language model could be loaded" in text

    def test_an_environment_of_ones_own_is_found_here(self, here):
        (here / "my_envs.py").write_text(
            "import gymnasium as gym\nfrom tril_gym.registration import make_text_env\n"
            "gym.register('mine/Toy-v0', entry_point='my_envs:make')\n"
            "def make(**keywords):\n    return make_text_env('tril/Toy-v0', **keywords)\n"
        )
        try:
            self.call("train", "ppo", "--env", "my_envs:mine/Toy-v0", *self.SMALL, "--output-dir", "run")
        finally:
            gym.registry.pop("mine/Toy-v0", None)

    def test_help_says_so(self):
        assert "module:function" in self.call("train", "ppo-pp", "--help")
