"""TRL's PPO on a case of iteration.py: one iteration for each line on standard input.

iteration.py runs it with the Python interpreter of a virtual environment that has TRL; see requirements.txt here.

Same settings: AdamW, constant learning rate, no clipping that the others do not have, float32, no checkpoints. TRL
requires models as reward and as critic: the critic has the policy's size, the reward is a transformer of one layer and
width 8.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    TrainerCallback,
    logging,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer
from worker import Bench


class WaitForRequests(TrainerCallback):
    """Stop the trainer before each iteration until one is requested."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.tokens, self.begin = bench, 0, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Report that the trainer is ready."""
        self.bench.answer()
        self.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Report an iteration."""
        seconds = time.perf_counter() - self.begin
        self.bench.answer(seconds=seconds, tokens=self.tokens, **self.bench.memory())
        self.wait()

    def wait(self) -> None:
        """Wait for the next request; exit if there is none."""
        if not self.bench.wait():
            raise SystemExit
        self.tokens, self.begin = 0, time.perf_counter()


def count_tokens(model: Any, requests: WaitForRequests, eos: int | None) -> None:
    """Make the model count the tokens that it generates, each text up to its EOS."""
    generate = model.generate

    def and_count(*inputs: Any, **settings: Any) -> Any:
        output = generate(*inputs, **settings)
        width = settings["input_ids"].shape[1] if "input_ids" in settings else inputs[0].shape[1]
        is_eos = (output.sequences[:, width:] == (-1 if eos is None else eos)).long()
        requests.tokens += int((is_eos.cumsum(1) - is_eos == 0).sum())
        return output

    model.generate = and_count


def main() -> None:
    bench = Bench()
    logging.set_verbosity_error()
    folder = Path(sys.argv[1])
    case = json.loads((folder / "case.json").read_text())
    torch.set_num_threads(case["threads"])
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = GPT2LMHeadModel.from_pretrained(folder)
    value = GPT2ForSequenceClassification.from_pretrained(folder, num_labels=1)
    small = GPT2Config(
        vocab_size=model.config.vocab_size,
        n_positions=model.config.n_positions,
        n_embd=8,
        n_layer=1,
        n_head=1,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    requests = WaitForRequests(bench)
    count_tokens(model, requests, tokenizer.eos_token_id if case["stops"] else None)
    settings = PPOConfig(
        output_dir=str(folder / "trl"),
        total_episodes=10**6,
        per_device_train_batch_size=case["texts"],
        gradient_accumulation_steps=1,
        num_mini_batches=case["texts"] // case["minibatch_size"],
        num_ppo_epochs=case["epochs"],
        local_rollout_forward_batch_size=case["texts"],
        response_length=case["new_tokens"],
        stop_token="eos" if case["stops"] else None,
        learning_rate=case["learning_rate"],
        lr_scheduler_type="constant",
        temperature=1.0,
        kl_coef=case["kl_coef"],
        vf_coef=case["vf_coef"],
        lam=case["gae_lambda"],
        cliprange=case["clip_range"],
        num_sample_generations=0,
        optim="adamw_torch_fused",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    rows = Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"] for text in case["prompts"]]})
    trainer = PPOTrainer(
        args=settings,
        processing_class=tokenizer,
        model=model,
        ref_model=copy.deepcopy(model),
        reward_model=GPT2ForSequenceClassification(small),
        value_model=value,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[requests],
    )
    trainer.train()


if __name__ == "__main__":
    main()
