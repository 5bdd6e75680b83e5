"""A guide behind a server: what is asked, how answers become tokens, and what ends a run."""

import json
import math
from pathlib import Path

import pytest
from doubles import generator, same
from fake_server import Reply, said, serving
from text_doubles import (
    Dictates,
    byte_tokenizer,
    completions,
    encoded,
    ids_of,
    metaspace_tokenizer,
    model_of,
    text_envs,
    write,
)

from tril_gym.agents import AggreVaTeD, Guide, LMPolicy, Plan, PPOPlusPlus, PPOPlusPlusConfig, TextLayout, collect
from tril_gym.agents.actors.guide import as_guide
from tril_gym.agents.collection.cuts import ShareCut
from tril_gym.testing import check_guide

TEXT = " The dog runs."
QUICK = {"pause": 0.0, "retries": 2}


def plain(asked):
    """Answer as a server that knows only what OpenAI defines."""
    if asked.path != "/v1/completions":
        return Reply({"error": "no such endpoint"}, 404)
    if {"top_k", "return_token_ids", "generation_config"} & asked.body.keys() or not isinstance(
        asked.body["prompt"], str
    ):
        return Reply({"detail": "Unexpected fields in the request"}, 422)
    return said(TEXT)


def with_ids(tokenizer, text=TEXT, *, reason="stop", ends=True, **more):
    """Answer as a server with this vocabulary."""

    def answer(asked):
        if asked.path == "/detokenize":
            return Reply({"prompt": tokenizer.decode(asked.body["tokens"])})
        if isinstance(asked.body["prompt"], str):
            return said(text)
        ids = encoded(tokenizer, text)[: asked.body["max_tokens"]]
        return said(tokenizer.decode(ids), ids=[*ids, 1] if ends else ids, reason=reason, **more)

    return answer


def guide(server, **settings):
    return Guide.from_server(server.url, "m", **QUICK | settings)


def whole(guide, envs, episodes=8, seed=1):
    return write(envs, Plan(rollout=guide), episodes=episodes, seed=seed)


class TestText:
    def test_texts_are_tokenised_and_end_with_eos(self):
        tokenizer = byte_tokenizer()
        with serving(plain) as server:
            found = whole(guide(server, top_p=0.92, temperature=0.5), text_envs(tokenizer))
        assert ids_of(found) == [[*encoded(tokenizer, TEXT), 1]] * 8
        asked = server.texts()
        assert sorted(asked[0].body) == ["max_tokens", "model", "prompt", "seed", "temperature", "top_p"]
        assert {one.body["prompt"] for one in asked} == {info["prompt"] for info in found.infos}
        settings = {(one.body["model"], one.body["temperature"], one.body["top_p"]) for one in asked}
        assert settings == {("m", 0.5, 0.92)}

    def test_each_text_has_its_own_seed_and_the_same_run_asks_the_same(self):
        def asked_in_a_run(seed):
            with serving(plain) as server:
                whole(guide(server), text_envs(byte_tokenizer()), episodes=16, seed=seed)
                return sorted((one.body["seed"], one.body["prompt"]) for one in server.texts())

        first = asked_in_a_run(1)
        assert len({seed for seed, _ in first}) == 16
        assert all(0 <= seed < 2**31 for seed, _ in first)
        assert max(seed for seed, _ in first) > 2**30
        assert asked_in_a_run(1) == first
        assert asked_in_a_run(2) != first

    def test_room_left_and_the_text_so_far(self):
        tokenizer = byte_tokenizer()
        begun = encoded(tokenizer, " The do")
        with serving(plain) as server:
            asking = guide(server)
            envs = text_envs(tokenizer, stop=["park"])
            plan = Plan(rollin=Dictates([[*begun, *begun, 1]]), rollin_prob=1.0, rollout=asking)
            trajectories = write(envs, plan)
        asked = {(one.body["prompt"], one.body["max_tokens"]) for one in server.texts()}
        assert {tuple(one.body["stop"]) for one in server.texts()} == {("park",)}
        expected = set()
        for info, ids, switch in zip(
            trajectories.infos, ids_of(trajectories), trajectories.switch.tolist(), strict=True
        ):
            expected.add((info["prompt"] + tokenizer.decode(ids[:switch]), 30 - switch))
        assert asked == expected

    def test_servers_tokens_may_be_shorter(self):
        def letters(asked):  # of a vocabulary of letters, three at a time
            text = "abcdefghijklmnop"
            begun = asked.body["prompt"].rpartition("sentence:")[2].strip()
            rest = text.removeprefix(begun)
            return said(rest[:3], reason="length") if len(rest) > 3 else said(rest)

        with serving(letters) as server:
            found = whole(guide(server, token_ids=False), text_envs(byte_tokenizer()))
        assert completions(found) == [" abcdefghijklmnop"] * 8

    @pytest.mark.parametrize(("reason", "text"), [("stop", " cats!"), (None, " cats")])
    def test_stop_strings_that_the_server_names_are_added(self, reason, text):
        stop_reason = "!" if reason else None
        with serving(lambda asked: said(" cats", stop_reason=stop_reason)) as server:
            found = whole(guide(server, token_ids=False), text_envs(byte_tokenizer(), stop=["!"]))
        tokenizer = byte_tokenizer()
        assert {tokenizer.decode(ids, skip_special_tokens=True) for ids in ids_of(found)} == {text}
        assert completions(found) == [" cats"] * 8

    def test_half_a_character_at_the_end_is_left_out(self):
        with serving(lambda asked: said(" gr\ufffd", reason="length")) as server:
            found = whole(guide(server, token_ids=False), text_envs(byte_tokenizer()), episodes=2)
        assert "\ufffd" not in completions(found)[0]

    def test_a_half_character_alone_ends_the_text(self):
        def half(asked):
            return said("\ufffd", reason="length" if len(server.asked) < 20 else "stop")

        with serving(half) as server:
            found = whole(guide(server, token_ids=False), text_envs(byte_tokenizer()), episodes=2)
        assert completions(found) == ["", ""]
        assert len(server.texts()) == 2  # each is asked for once: another request would return the same


class TestIds:
    def test_ids_are_used_as_they_are(self):
        tokenizer = byte_tokenizer()
        letters = [token for letter in "The dog" for token in encoded(tokenizer, letter)]  # as no tokenizer splits it
        answer = with_ids(tokenizer)

        def spelled(asked):
            reply = answer(asked)
            if asked.body.get("max_tokens", 0) > 8:
                return said("The dog", ids=[*letters, 1])
            return reply

        with serving(spelled) as server:
            asking = guide(server)
            envs = text_envs(tokenizer)
            assert not asking.reads_text(TextLayout.of(envs))
            found = whole(asking, envs)
        assert ids_of(found) == [[*letters, 1]] * 8
        prompts = {tuple(one.body["prompt"]) for one in server.texts()}
        assert prompts == {tuple(encoded(tokenizer, info["prompt"])) for info in found.infos}
        body = server.texts()[0].body
        assert (body["stop_token_ids"], body["return_token_ids"], body["top_k"], body["min_p"]) == ([1], True, -1, 0.0)

    def test_settings_that_a_server_has_defaults_for_are_sent(self):
        tokenizer = byte_tokenizer()
        with serving(with_ids(tokenizer)) as server:
            whole(guide(server, top_k=5, temperature=0.5), text_envs(tokenizer), episodes=1)
        body = server.texts()[0].body
        sent = {name: body[name] for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
        assert sent == {"temperature": 0.5, "top_k": 5, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}

    def test_another_vocabulary_meets_as_text(self):
        other = byte_tokenizer(merges=10)
        with serving(with_ids(other)) as server:
            found = whole(guide(server), text_envs(byte_tokenizer()))
        assert ids_of(found) == [[*encoded(byte_tokenizer(), TEXT), 1]] * 8

    def test_ids_that_are_required_and_missing(self):
        with serving(plain) as server, pytest.raises(ValueError, match="does not take and return ids"):
            guide(server, token_ids=True).check(TextLayout.of(text_envs(byte_tokenizer())))

    @pytest.mark.parametrize("ends", [True, False])
    def test_eos_is_added_once(self, ends):
        tokenizer = byte_tokenizer()
        with serving(with_ids(tokenizer, ends=ends)) as server:
            found = whole(guide(server), text_envs(tokenizer))
        assert ids_of(found) == [[*encoded(tokenizer, TEXT), 1]] * 8

    def test_texts_that_fill_the_room_have_no_eos(self):
        tokenizer = byte_tokenizer()
        with serving(with_ids(tokenizer, "x" * 60, reason="length", ends=False)) as server:
            found = whole(guide(server), text_envs(tokenizer))
        assert ids_of(found) == [encoded(tokenizer, "x" * 30)] * 8
        assert {info["finish_reason"] for info in found.infos} == {"length"}

    def test_ids_up_to_a_stop_string(self):
        tokenizer = byte_tokenizer()
        with serving(with_ids(tokenizer, " cats! and more")) as server:
            found = whole(guide(server), text_envs(tokenizer, stop=["!"]))
        assert completions(found) == [" cats"] * 8
        assert {tokenizer.decode(ids) for ids in ids_of(found)} == {" cats!"}

    def test_the_rest_of_a_text_counts_from_what_is_begun(self):
        """Its minimum length, and a stop string whose first half is in what is begun."""
        tokenizer = byte_tokenizer(merges=0)
        begun = encoded(tokenizer, " aaaa#")
        with serving(with_ids(tokenizer, "# and more")) as server:
            envs = text_envs(tokenizer, min_new_tokens=10, stop=["##"])
            plan = Plan(
                rollin=Dictates([[*begun, *begun, 1]]), rollin_prob=1.0, cut=ShareCut(0.5), rollout=guide(server)
            )
            found = write(envs, plan)
        assert {tokenizer.decode(ids) for ids in ids_of(found)} == {" aaaa##"}
        assert {one.body["min_tokens"] for one in server.texts()} == {10 - 6}

    def test_an_eos_at_the_end_of_prompts_is_not_sent(self):
        tokenizer = metaspace_tokenizer("bpe")  # prompts end in EOS, for an encoder
        with serving(with_ids(tokenizer, "the dog")) as server:
            envs = text_envs(tokenizer, prompt_eos=True)
            found = whole(guide(server, token_ids=True), envs)
        assert {found.texts.prompt_ids(row)[-1] for row in range(8)} == {1}
        prompts = {tuple(found.texts.prompt_ids(row)[:-1]) for row in range(8)}
        assert {tuple(one.body["prompt"]) for one in server.texts()} == prompts

    @pytest.mark.parametrize(
        ("reply", "words"),
        [
            ({"ids": [5, 100_000]}, "the id 100000, and the vocabulary has"),
            ({"ids": [5, 6], "reason": "length"}, "stopped after 2 of 30 tokens"),
            ({}, "returned no ids"),
        ],
    )
    def test_answers_that_do_not_fit(self, reply, words):
        tokenizer = byte_tokenizer()
        answer = with_ids(tokenizer)
        with serving(
            lambda asked: said("x", **reply) if asked.body.get("max_tokens", 0) > 8 else answer(asked)
        ) as server:
            asking = guide(server)
            with pytest.raises(RuntimeError, match=words):
                whole(asking, text_envs(tokenizer))

    def test_contract_of_guides(self):
        tokenizer = byte_tokenizer()
        with serving(with_ids(tokenizer)) as server:
            check_guide(guide(server), text_envs(tokenizer))
        with serving(plain) as server:
            check_guide(guide(server), text_envs(tokenizer))


class TestChat:
    def chat(self, *, continues):
        user, opened, closed = 5, 3, 2  # tokens of a message and of a template's markers

        def answer(asked):
            if asked.path != "/v1/chat/completions":
                return Reply({}, 404)
            messages, prompt = asked.body["messages"], user + opened
            if messages[-1]["role"] == "assistant":
                prompt += len(messages[-1]["content"].split()) + (0 if continues else closed + opened)
            choice = {"message": {"role": "assistant", "content": "The dog runs."}, "finish_reason": "stop"}
            return Reply({"choices": [choice], "usage": {"prompt_tokens": prompt, "completion_tokens": 4}})

        return answer

    @pytest.mark.parametrize("continues", [True, False])
    def test_continues_only_where_the_server_does(self, continues):
        envs = text_envs(byte_tokenizer())
        with serving(self.chat(continues=continues)) as server:
            asking = Guide.from_server(server.url + "/chat/completions", "m", **QUICK)
            asking.check(TextLayout.of(envs))
            assert asking.can_continue is continues
            found = whole(asking, envs)
        assert completions(found) == [TEXT] * 8
        messages = server.texts()[0].body["messages"]
        assert [message["role"] for message in messages] == ["user"]

    def test_refused_as_a_guide_that_finishes(self):
        tokenizer = byte_tokenizer()
        with serving(self.chat(continues=False)) as server:
            asking = Guide.from_server(server.url + "/chat/completions", "m", **QUICK)
            with pytest.raises(ValueError, match="can only begin them"):
                AggreVaTeD(model_of(tokenizer), asking, text_envs(tokenizer))


class TestDoor:
    """What is found before a run starts."""

    def check(self, server, **settings):
        guide(server, **settings).check(TextLayout.of(text_envs(byte_tokenizer())))

    @pytest.mark.parametrize(
        ("reply", "words"),
        [
            (Reply({"error": "no"}, 401), "environment variable TRIL_GYM_SERVER_KEY"),
            (Reply({"error": "no"}, 404), "does the address end in /v1?"),
            (Reply({"choices": []}), "one prompt with one text, got 0"),
            (Reply({"choices": [{"text": "a"}, {"text": "b"}]}), "got 2"),
            (Reply({"choices": [{"text": "a"}]}), "a finish_reason"),
            (Reply([1]), "a JSON object"),
            (Reply({}, 500), "attempt 3 of 3"),
        ],
    )
    def test_servers_that_do_not_answer(self, reply, words):
        with serving(lambda asked: reply) as server, pytest.raises(ValueError, match="does not answer") as error:
            self.check(server)
        assert words in str(error.value)

    def test_the_models_of_the_server_are_named(self):
        def answer(asked):
            return Reply({"data": [{"id": "gpt2"}]}) if asked.path == "/v1/models" else Reply({}, 404)

        with serving(answer) as server, pytest.raises(ValueError, match="it has the models gpt2"):
            self.check(server)

    def test_fields_that_a_server_does_not_know(self, caplog):
        with serving(plain) as server:
            self.check(server)
        assert "takes no top_k" in caplog.text

    def test_transformers_serve_takes_a_generation_config(self, caplog):
        def answer(asked):
            if "top_k" in asked.body:
                return Reply({"detail": "Unexpected fields in the request: {'top_k'}"}, 422)
            return said(TEXT)

        with serving(answer) as server:
            asking = guide(server, top_k=7)
            asking.check(TextLayout.of(text_envs(byte_tokenizer())))
        sent = json.loads(server.asked[-1].body["generation_config"])
        assert sent == {"do_sample": True, "top_k": 7, "repetition_penalty": 1.0}
        assert caplog.text == ""

    def test_an_address_is_a_guide(self):
        assert repr(as_guide("http://localhost:1/v1#m", None)) == (
            "Guide.from_server('http://localhost:1/v1#m', temperature 1)"
        )
        with pytest.raises(TypeError, match="concurency"):
            Guide.from_server("http://localhost:1/v1", "m", concurency=3)


class TestRuns:
    def agent(self, server, folder=None, **settings):
        tokenizer = byte_tokenizer()
        asking = guide(server, cache=None if folder is None else str(folder), **settings)
        policy: LMPolicy = model_of(tokenizer)
        return PPOPlusPlus(policy, asking, text_envs(tokenizer), PPOPlusPlusConfig(rollin_prob=0.6), seed=3)

    def test_failures_in_a_run_are_tried_again(self):
        count = [0]

        def sometimes(asked):
            count[0] += asked.body.get("max_tokens", 0) > 8
            return Reply({}, 503) if count[0] % 3 == 2 else plain(asked)

        with serving(sometimes) as server, serving(plain) as other:
            envs = text_envs(byte_tokenizer())
            asking = guide(server, retries=8)
            found, expected = whole(asking, envs), whole(guide(other), envs)
            assert same(found, expected)
        metrics = asking.metrics()
        assert metrics["guide/requests"] == 8 + metrics["guide/failures"] > 8
        assert metrics["guide/tokens"] == 3 * 8
        assert metrics["guide/seconds"] > 0
        assert asking.metrics() == {f"guide/{name}": 0 for name in ("requests", "failures", "seconds", "tokens")}

    def test_a_server_that_ends(self):
        with serving(plain) as server:
            agent = self.agent(server)
            agent.learn(1, progress=False)
        with pytest.raises(RuntimeError, match=r"the guide http://.*#m failed: .*attempt 3 of 3.*running there"):
            agent.learn(1, progress=False)
        assert agent.is_whole
        assert agent.iteration == 1

    def test_answers_in_the_cache_are_not_asked_for_again(self, tmp_path):
        other = [0]

        def noisy(asked):  # a server that does not keep to seeds
            other[0] += 1
            return plain(asked) if plain(asked).status != 200 else said(f" text {other[0]}")

        with serving(noisy) as server:
            envs = text_envs(byte_tokenizer())
            first = whole(guide(server, cache=str(tmp_path / "answers")), envs)
            again = guide(server, cache=str(tmp_path / "answers"))
            assert same(whole(again, envs), first)
            assert again.metrics()["guide/requests"] == 0
            assert not same(whole(guide(server), envs), first)
        assert len(list((tmp_path / "answers").rglob("*.json"))) == 8

    def test_key_is_in_no_file_and_no_repr(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRIL_GYM_SERVER_KEY", "S3CRET")
        with serving(plain) as server:
            agent = self.agent(server, tmp_path / "answers")
            agent.learn(1, progress=False)
            agent.save(tmp_path / "agent")
            assert server.texts()[0].headers["authorization"] == "Bearer S3CRET"
        files = [path for path in Path(tmp_path).rglob("*") if path.is_file()]
        assert len(files) > 5
        assert [path for path in files if b"S3CRET" in path.read_bytes()] == []
        assert "S3CRET" not in repr(agent) + repr(agent.guide)

    def test_a_saved_agent_asks_its_server_again_where_it_is_trusted(self, tmp_path):
        with serving(plain) as server:
            agent = self.agent(server, tmp_path / "answers", top_p=0.9, timeout=7.0)
            agent.save(tmp_path / "agent")
            with pytest.raises(ValueError, match=r"is the server http://.*#m, .* guide=Guide.from_server\('http://"):
                PPOPlusPlus.load(tmp_path / "agent", envs=agent.envs)
            loaded = PPOPlusPlus.load(tmp_path / "agent", envs=agent.envs, trust_remote_code=True)
        assert loaded.guide.settings() == agent.guide.settings()
        assert loaded.guide.server.decoding.top_p == 0.9


def test_uniforms_of_dropped_rows_do_not_shift_seeds():
    envs = text_envs(byte_tokenizer(), num_envs=4)
    with serving(plain) as server:
        asking = guide(server)
        wide = collect(
            text_envs(byte_tokenizer(), num_envs=8), Plan(rollout=asking), episodes=8, generator=generator(1)
        )
        first = sorted(one.body["seed"] for one in server.texts())
        server.asked.clear()
        narrow = collect(envs, Plan(rollout=asking), episodes=8, generator=generator(1))
        assert sorted(one.body["seed"] for one in server.texts()) == first
    assert ids_of(wide) == ids_of(narrow)
    assert not math.isnan(float(wide.rewards.sum()))
