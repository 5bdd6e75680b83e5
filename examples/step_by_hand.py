"""An environment by hand: write a text token by token, then begin again in the middle of it.

No agent and no torch: what an environment shows, does and pays.
"""

import gymnasium as gym

import tril_gym  # noqa: F401  (registers the environments)


def main(example: int = 3) -> float:
    env = gym.make("tril/CommonGen-v0", render_mode="ansi")
    tokenizer = env.unwrapped.tokenizer
    eos = env.metadata["text"]["eos_token_ids"][0]

    # Begin the text of one example, and write its first reference.
    observation, info = env.reset(seed=0, options={"example": example})
    print(info["prompt"])
    print("tokens of the prompt:", observation[observation >= 0])
    tokens = tokenizer(" " + info["references"][0], add_special_tokens=False)["input_ids"]
    for token in [*tokens, eos]:
        observation, reward, terminated, truncated, info = env.step(token)
    print(env.render())
    print(f"{info['finish_reason']}, {len(info['tokens'])} tokens, reward {reward:.3f} from {info['scores']}\n")
    assert terminated
    assert not truncated  # only limits from outside truncate
    whole = reward

    # Stand in the middle of the same text at once: no step is taken, and it costs the same at any length.
    half = tokens[: len(tokens) // 2]
    observation, info = env.reset(options={"example": example, "completion": half})
    print(env.render())

    # Go on from there in another way: end at once.
    observation, reward, terminated, truncated, info = env.step(eos)
    print(env.render())
    assert terminated
    assert info["tokens"] == [*half, eos]
    print(f"half of the text earns {reward:.3f}, the whole {whole:.3f}")
    return whole - reward


if __name__ == "__main__":
    main()
