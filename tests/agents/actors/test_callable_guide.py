"""A function of texts as a guide: its arguments, results and failures."""

import logging
from typing import Any

import pytest
import torch
from doubles import foreign_envs, language_model, same
from text_doubles import (
    Dictates,
    Says,
    byte_tokenizer,
    completions,
    encoded,
    ids_of,
    metaspace_tokenizer,
    model_of,
    text_envs,
    write,
)

from tril_gym.agents import (
    Guide,
    LMPolicy,
    Plan,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    TextLayout,
)
from tril_gym.models.texts import Texts


class TestWriting:
    def test_whole_texts_end_with_eos(self):
        tokenizer, says = byte_tokenizer(), Says()
        trajectories = write(text_envs(tokenizer), Plan(rollout=Guide.from_callable(says)), episodes=12)
        # Two batches, of eight and of four; all completions are empty.
        assert [(len(prompts), set(begun)) for prompts, begun in says.asked] == [(8, {""}), (4, {""})]
        assert says.asked[0][0] + says.asked[1][0] == [info["prompt"] for info in trajectories.infos]
        assert len(set(says.asked[0][0])) > 2
        # As for references: a space before, EOS after.
        assert ids_of(trajectories) == [[*encoded(tokenizer, " The dog runs."), 1]] * 12
        assert completions(trajectories) == [" The dog runs."] * 12
        assert {info["finish_reason"] for info in trajectories.infos} == {"stop"}

    @pytest.mark.parametrize("mode", ["Disabled", "NextStep", "SameStep"])
    def test_rollins_are_cut_at_the_switch(self, mode):
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
    def test_rollouts_continue_at_the_switch(self, mode):
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

    def test_long_text_is_cut_and_has_no_eos(self):
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
    def test_answers_decode_to_themselves(self, answer, said):
        tokenizer = byte_tokenizer()
        trajectories = write(text_envs(tokenizer), Plan(rollout=Guide.from_callable(Says([answer]))))
        assert completions(trajectories)[0] == said
        ids = ids_of(trajectories)[0]
        assert ids.index(1) == len(ids) - 1
        assert 0 not in ids

    def test_the_name_of_any_eos_ends_a_text(self):
        guide = Guide.from_callable(Says(["dog<unk> cat"]))
        found = write(text_envs(byte_tokenizer(), eos_token_ids=[1, 2]), Plan(rollout=guide))
        assert completions(found) == [" dog"] * 8

    def test_prompt_is_decoded_where_the_info_has_none(self):
        tokenizer, says = metaspace_tokenizer(), Says()
        layout = TextLayout.of(text_envs(tokenizer))
        ids = encoded(tokenizer, "the dog")
        texts = Texts.from_ids([[*ids, 1], [*ids, 1]], [[], []], max_new_tokens=layout.max_new_tokens)
        guide = Guide.from_callable(says)
        guide.start(texts, [{}, {"prompt": "the cat"}], layout).next(torch.zeros(2))
        assert says.asked == [(["the dog", "the cat"], ["", ""])]

    def test_dropped_rows_change_no_other_row(self):
        """Rows dropped before the first token are not passed to the function."""
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


class TestFailures:
    @pytest.fixture
    def slept(self, monkeypatch) -> list[float]:
        seconds: list[float] = []
        monkeypatch.setattr("time.sleep", seconds.append)
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

    def test_failed_call_is_repeated(self, fails, slept, caplog):
        service = fails(2)
        with caplog.at_level(logging.WARNING, logger="tril_gym"):
            trajectories = write(text_envs(byte_tokenizer()), Plan(rollout=Guide.from_callable(service)))
        assert completions(trajectories) == [" dog"] * 8
        assert service.calls == 3
        assert slept == [1.0, 2.0]
        assert len(caplog.records) == 2
        for words in ("service", "OSError: no line", "again in 1 s"):
            assert words in caplog.records[0].message

    def test_last_attempt_raises(self, fails, slept):
        service = fails(4)
        plan = Plan(rollout=Guide.from_callable(service, retries=3, pause=0.5))
        with pytest.raises(RuntimeError, match=r"service raised OSError: no line \(attempt 4 of 4, .* 8 texts\)") as it:
            write(text_envs(byte_tokenizer()), plan)
        assert "retries=" in str(it.value)
        assert isinstance(it.value.__cause__, OSError)
        assert service.calls == 4
        assert slept == [0.5, 1.0, 2.0]

    def test_no_retries(self, fails, slept):
        service = fails(1)
        with pytest.raises(RuntimeError, match="attempt 1 of 1"):
            write(text_envs(byte_tokenizer()), Plan(rollout=Guide.from_callable(service, retries=0)))
        assert (service.calls, slept) == (1, [])

    def test_keyboard_interrupt_is_not_retried(self, fails, slept):
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
    def test_wrong_answers_are_refused_without_retry(self, found, error, words, slept):
        calls = []

        def service(prompts: list[str], completions: list[str]) -> Any:
            calls.append(len(prompts))
            return found

        with pytest.raises(error, match=rf"service must return.*{words}|{words}"):
            write(text_envs(byte_tokenizer()), Plan(rollout=Guide.from_callable(service)))
        assert calls == [8]
        assert slept == []

    def test_invalid_arguments_are_refused(self):
        with pytest.raises(TypeError, match=r"is a function of prompts and completions, got 'dog'"):
            Guide.from_callable("dog")
        for retries in (-1, "2"):
            with pytest.raises(ValueError, match=f"retries must be an integer of at least 0, got {retries!r}"):
                Guide.from_callable(Says(), retries=retries)
        with pytest.raises(ValueError, match="pause must be a number of seconds of at least 0, got -1"):
            Guide.from_callable(Says(), pause=-1)

    def test_environment_without_tokenizer_is_refused(self):
        policy = LMPolicy(language_model("gpt2"), None)
        with pytest.raises(ValueError, match="the environment shows no tokenizer"):
            PPOPlusPlus(policy, Guide.from_callable(Says()), foreign_envs(4), PPOPlusPlusConfig())

    def test_bare_function_is_not_a_guide(self):
        tokenizer = byte_tokenizer()
        with pytest.raises(TypeError, match=r"Guide\.from_callable\(f\)"):
            PPOPlusPlus(model_of(tokenizer), Says(), text_envs(tokenizer), PPOPlusPlusConfig())


class TestSaving:
    def test_function_is_passed_to_load_again(self, tmp_path):
        tokenizer = byte_tokenizer()
        envs = text_envs(tokenizer, reward="rouge_l")
        guide = Guide.from_callable(Says())
        PPOPlusPlus(model_of(tokenizer), guide, envs, PPOPlusPlusConfig()).save(tmp_path)
        with pytest.raises(ValueError, match=r"could not be saved; pass it: load\(..., guide=...\)"):
            PPOPlusPlus.load(tmp_path, envs=envs)
        assert PPOPlusPlus.load(tmp_path, envs=envs, guide=guide).guide is guide
