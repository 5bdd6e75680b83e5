"""The policy's texts from a server: log-probabilities, and how weights are handed over."""

import math
from contextlib import nullcontext

import pytest
import torch
from doubles import generator
from fake_server import Reply, said, serving
from text_doubles import byte_tokenizer, encoded, ids_of, model_of, text_envs

from tril_gym.agents import Plan, TextLayout, collect
from tril_gym.agents.actors.inference_server import InferenceServer
from tril_gym.agents.actors.served_policy import AdapterHandOver, FolderHandOver, ServedPolicy, load_into_sglang
from tril_gym.functional.sampling import Decoding
from tril_gym.utils.http_client import ServerError
from tril_gym.utils.servers import ServerAddress, ServerConfig

TEXT = " The dog runs."


def writes(tokenizer, *, known=100):
    """Answer as vLLM, with log-probabilities of the first tokens only, and with the endpoints that load weights."""

    def answer(asked):
        if asked.path == "/update_weights_from_disk":
            return Reply({"success": True})
        if asked.path.endswith("_lora_adapter"):
            return Reply(b"Success: done.")
        if asked.path != "/v1/completions":
            return Reply({}, 404)
        ids = [*encoded(tokenizer, TEXT), 1]
        logprobs = {"token_logprobs": [-0.1 * number for number in range(len(ids))][:known]}
        return said(TEXT, ids=ids, logprobs=logprobs)

    return answer


def server_at(url, **settings):
    return InferenceServer(ServerAddress.parse(url, "m"), Decoding(), ServerConfig(retries=0, **settings))


class Noted:
    """A hand-over that only notes its versions."""

    def __init__(self):
        self.versions = []

    def __call__(self, policy, server, version):
        self.versions.append(version)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.mark.parametrize("known", [100, 2])
def test_log_probabilities_are_kept(tokenizer, known):
    envs = text_envs(tokenizer)
    with serving(writes(tokenizer, known=known)) as server:
        served = ServedPolicy(model_of(tokenizer), server_at(server.url), Noted())
        served.check(TextLayout.of(envs))
        found = collect(envs, Plan(rollout=served), episodes=8, generator=generator(1))
    ids = [*encoded(tokenizer, TEXT), 1]
    assert ids_of(found) == [ids] * 8
    row = found.old_logprobs[0, : len(ids)].tolist()
    if known == 100:
        assert row == pytest.approx([-0.1 * number for number in range(len(ids))])
    else:
        assert all(math.isnan(value) for value in row)  # not one for each id
    assert served.metrics()["server/requests"] == 8


@pytest.mark.parametrize("kind", [{"foreach": False}, {"fused": True}])
def test_weights_are_handed_over_when_they_change(tokenizer, kind):
    envs, policy, noted = text_envs(tokenizer), model_of(tokenizer), Noted()
    with serving(writes(tokenizer)) as server:
        served = ServedPolicy(policy, server_at(server.url), noted)
        served.check(TextLayout.of(envs))

        def write():
            collect(envs, Plan(rollout=served), episodes=8, generator=generator(1))

        write()
        write()
        assert noted.versions == [1]
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5, **kind)
        for parameter in policy.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        write()
        write()
        assert noted.versions == [1, 2]


def test_safetensors_are_loaded_by_sglang(tokenizer, tmp_path):
    policy = model_of(tokenizer)
    hand_over = FolderHandOver(tmp_path / "weights", load_into_sglang)
    with serving(writes(tokenizer)) as server:
        hand_over(policy, server_at(server.url), 1)
        hand_over(policy, server_at(server.url), 2)
    assert [asked.body for asked in server.asked] == [
        {"model_path": str(tmp_path / "weights" / number)} for number in ("1", "2")
    ]
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["2"]
    assert (tmp_path / "weights/2/model.safetensors").is_file()


def test_adapters_are_loaded_by_vllm(tokenizer, tmp_path):
    policy = model_of(tokenizer, dtype=torch.float32).with_lora(2)
    hand_over = AdapterHandOver(tmp_path)
    with serving(writes(tokenizer)) as server:
        asking = server_at(server.url)
        hand_over(policy, asking, 1)
        hand_over(policy, asking, 2)
    asked = [(one.path, one.body["lora_name"]) for one in server.asked]
    loaded, unloaded = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    assert asked == [(loaded, "m-1"), (loaded, "m-2"), (unloaded, "m-1")]
    assert asking.model == "m-2"
    assert (tmp_path / "2/adapter_model.safetensors").is_file()
    assert not (tmp_path / "1").exists()
    with pytest.raises(ValueError, match="with_lora"):
        hand_over(model_of(tokenizer), asking, 3)


def test_settings_that_no_server_scores(tokenizer):
    layout = TextLayout.of(text_envs(tokenizer))
    policy = model_of(tokenizer).with_decoding(Decoding(temperature=0.7))
    with serving(writes(tokenizer)) as server, pytest.raises(ValueError, match="temperature 1 from its full softmax"):
        ServedPolicy(policy, server_at(server.url), Noted()).check(layout)
    with pytest.raises(ValueError, match="cannot be kept"):
        ServedPolicy(policy, server_at(server.url, cache="answers"), Noted())


def test_weights_that_could_not_be_handed_over_are_handed_over_again(tokenizer):
    class FailsOnce(Noted):
        def __call__(self, policy, server, version):
            super().__call__(policy, server, version)
            if version == 2:
                raise ServerError("out of memory")

    envs, policy, noted = text_envs(tokenizer), model_of(tokenizer), FailsOnce()
    with serving(writes(tokenizer)) as server:
        served = ServedPolicy(policy, server_at(server.url), noted)
        served.check(TextLayout.of(envs))
        with torch.no_grad():
            policy.parameters()[0].add_(1.0)
        with pytest.raises(ServerError):
            collect(envs, Plan(rollout=served), episodes=8, generator=generator(1))
        for _ in range(2):
            collect(envs, Plan(rollout=served), episodes=8, generator=generator(1))
    assert noted.versions == [1, 2, 3]


def test_an_adapter_is_loaded_after_a_failed_one(tokenizer, tmp_path):
    policy, answer = model_of(tokenizer, dtype=torch.float32).with_lora(2), writes(tokenizer)
    hand_over = AdapterHandOver(tmp_path)
    with serving(
        lambda asked: Reply({}, 400) if asked.body["lora_name"] in ("m-1", "m-3") else answer(asked)
    ) as server:
        asking = server_at(server.url)
        for version, fails in ((1, True), (2, False), (3, True), (4, False)):
            with pytest.raises(ServerError) if fails else nullcontext():
                hand_over(policy, asking, version)
    unloaded = [one.body["lora_name"] for one in server.asked if one.path.startswith("/v1/unload")]
    assert (asking.model, unloaded) == ("m-4", ["m-2"])
    assert not (tmp_path / "2").exists()
