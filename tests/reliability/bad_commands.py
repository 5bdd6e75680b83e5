"""Commands with a wrong setting or wrong data, and words of the message that each must give.

`docs/reliability.md` shows this list; `test_bad_commands.py` runs it in a folder with the files of `FILES`.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

SETS = [{"concepts": [f"dog{i}", "run"], "references": [f"dog{i} runs in the park."]} for i in range(60)]
PAIRS = [{"prompt": f"say {i}", "chosen": "yes", "rejected": "no"} for i in range(40)]
QUESTIONS: list[dict[str, object]] = [{"prompt": f"2 + {i} =", "answer": 2 + i, "completion": "4"} for i in range(40)]
NO_REFERENCES = [row | {"references": []} for row in SETS]


def lines(rows: list[dict[str, object]]) -> bytes:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def flipped(content: bytes) -> bytes:
    """Return a gzip file in which one bit of the middle is wrong."""
    packed = bytearray(gzip.compress(content))
    packed[len(packed) // 2] ^= 0x40
    return bytes(packed)


OWN = b"""
def one_short(prompts, completions, references, extras):
    return [0.5] * (len(completions) - 1)

def nothing(completions):
    pass

def strings(completions):
    return ["0.5"] * len(completions)

def not_a_number(completions):
    return [float("nan")] * len(completions)

def two(a, b):
    return [0.5]

def wrong(completions):
    raise ValueError("no stars")

def numbers(prompts, completions):
    return [1.0] * len(prompts)

three = 3

class NotScore:
    pass
"""

FILES: dict[str, bytes] = {
    "sets.jsonl": lines(SETS),
    "empty.jsonl": b"",
    "one.jsonl": lines(SETS[:1]),
    "words.jsonl": b"hello\n",
    "list.jsonl": b"[1, 2]\n",
    "latin1.jsonl": b'{"concepts": ["caf\xe9"], "references": []}\n',
    "halves.jsonl": b'{"concepts": ["a\\ud83d"], "references": []}\n',
    "deep.jsonl": b'{"concepts": ' + b"[" * 200_000 + b"]" * 200_000 + b', "references": []}\n',
    "none.jsonl": lines(NO_REFERENCES),
    "some.jsonl": lines([*NO_REFERENCES[:30], *SETS[30:]]),
    "questions.jsonl": lines([*QUESTIONS, {"prompt": "2 + 41 =", "answer": None}]),
    "held_out.jsonl": lines([*QUESTIONS, {"prompt": "2 + 40 =", "answer": None}]),  # by its hash
    "reviews.jsonl": b'{"text": "a good film", "label": 2}\n',
    "notes.txt": b"hello",
    "pairs.jsonl": lines(PAIRS),
    "some_pairs.jsonl": lines([*PAIRS[:39], {"prompt": "say 39", "completion": "yes"}]),
    "semicolons.csv": b"concepts;references\na;b\n",
    "twice.csv": b"concepts,references,concepts\na,b,c\n",
    "short.csv": b'concepts,references\n"[""a""]"\n',
    "bad.parquet": b"hello",
    "flipped.jsonl.gz": flipped(lines(SETS)),
    "cut.jsonl.gz": gzip.compress(lines(SETS))[:-20],
    "empty_folder/.keep": b"",
    "half/train.jsonl": lines(SETS),
    "two/train.jsonl": lines(SETS),
    "two/train.csv": b"concepts,references\n",
    "taken/notes.txt": b"mine",
    "own.py": OWN,
    "unfinished.py": b"def f(:\n",
}

TRAIN, TOY = "train ppo", "--env tril/Toy-v0"
MATCH = "--reward exact_match --reward-arg exact_match.against=answer"

# (arguments, words of the message)
BAD_COMMANDS: tuple[tuple[str, str], ...] = (
    # the command line
    ("train nope", "unknown algorithm 'nope'"),
    (f"{TRAIN} --nope 3", "No such option '--nope'"),
    (f"{TRAIN} extra", "unexpected extra argument"),
    ("list nope", "No such command 'nope'"),
    # numbers
    (f"{TRAIN} --iterations 0", "--iterations must be at least 1, got 0"),
    (f"{TRAIN} --iterations 1.5", "'1.5' is not a valid integer"),
    (f"{TRAIN} --num-envs 999999999999", "--num-envs must be in [1, 100000], got 999999999999"),
    (f"{TRAIN} --seed -1", "--seed must be in [0, 4294967295], got -1"),
    (f"{TRAIN} --learning-rate nan", "--learning-rate must be finite and in (0, 1], got nan"),
    (f"{TRAIN} --learning-rate 1e400", "--learning-rate must be finite and in (0, 1], got inf"),
    (f"{TRAIN} --learning-rate 1e30", "--learning-rate must be in (0, 1], got 1e+30"),
    (f"{TRAIN} --learning-rate 0", "--learning-rate must be in (0, 1], got 0.0"),
    (f"{TRAIN} --temperature 0", "--temperature must be in [0.001, 100], got 0.0"),
    (f"{TRAIN} --temperature inf", "--temperature must be finite"),
    (f"{TRAIN} --kl-coef 1e30", "--kl-coef must be in [0, 1000000], got 1e+30"),
    (f"{TRAIN} --kl-coef -1", "--kl-coef must be in [0, 1000000], got -1.0"),
    (f"{TRAIN} --gamma 2", "--gamma must be in [0, 1], got 2.0"),
    (f"{TRAIN} --clip-range 1", "--clip-range must be in (0, 1), got 1.0"),
    (f"{TRAIN} --top-p 0", "--top-p must be in (0, 1], got 0.0"),
    (f"{TRAIN} --epochs 99999999999", "--epochs must be in [1, 100000], got 99999999999"),
    (f"{TRAIN} --minibatch-size 100000000000000000000000", "--minibatch-size must be at least 1 and at most"),
    (f"{TRAIN} --adam-betas 0.9 1", "--adam-betas must be in [0, 1), got (0.9, 1.0)"),
    (f"{TRAIN} --lr-warmup 200", "lr_iterations, got 200"),
    (f"{TRAIN} --kl-controller adaptive", "kl_target must be given"),
    (f"{TRAIN} --kl-target 4", "--kl-target 4.0 has no effect here: --kl-controller is fixed, and it is for adaptive"),
    (f"{TRAIN} --apa-temperature 1", "--apa-temperature 1.0 has no effect here: --policy-loss is clip"),
    (f"{TRAIN} --pretrain-seconds 0", "--pretrain-seconds must be above 0, got 0.0"),
    (f"{TRAIN} --pretrain-share 0", "--pretrain-share must be in (0, 1], got 0.0"),
    (f"{TRAIN} --pretrain-share 0.5 --tiny-samples 0", "--pretrain-share 0.5 is for tiny policies that are pretrained"),
    ("train ppo-pp --rollin-prob 2", "--rollin-prob must be in [0, 1], got 2.0"),
    ("train ppo-pp --rollin-iterations 5", "--rollin-iterations 5 has no effect here: --final-rollin-prob is not"),
    ("train ppo-pp --guide-temperature 1e30", "--guide-temperature must be in [0.001, 100], got 1e+30"),
    ("train gail --gradient-penalty 1e30", "--gradient-penalty must be in [0, 1000000], got 1e+30"),
    # names
    (f"{TRAIN} --kl-controller nope", "'nope' is not one of 'fixed'"),
    (f"{TRAIN} --device cuda:99", "there is no device 'cuda:99' here"),
    (f"{TRAIN} --device mps", "no device 'mps' here"),
    (f"{TRAIN} --device meta", "there is no device 'meta' here"),
    (f"{TRAIN} --track foo", "tracker 'foo' is not installed"),
    (f"{TRAIN} --preset nope", "unknown preset 'nope'"),
    (f"{TRAIN} --preset tril {TOY}", "the preset tril has settings for tril/IMDB-v0, tril/CommonGen-v0, tril/TLDR-v0"),
    (
        "train grpo --preset tril --env tril/IMDB-v0",
        "the preset tril has settings for bc, ppo, ppo-pp, aggrevated, lols",
    ),
    (f"{TRAIN} --policy nowhere", "no language model could be loaded as 'nowhere'"),
    (f"{TRAIN} --policy empty_folder", "no language model could be loaded as 'empty_folder'"),
    (f"{TRAIN} --policy sets.jsonl", "no language model could be loaded as 'sets.jsonl'"),
    (f"{TRAIN} --tokenizer nowhere", "--env-arg tokenizer=nowhere gives the environment that one"),
    (f"{TRAIN} --lora-rank 4 --lora-targets nope", "the model has no layer 'nope'"),
    (f"{TRAIN} --lora-alpha 3", "--lora-alpha is for LoRA, so it needs --lora-rank"),
    (f"{TRAIN} --load-in-4bit", "--load-in-4bit is for LoRA"),
    (f"{TRAIN} --critic adapter", "a critic or discriminator adapter needs a LoRA policy"),
    ("train gail --discriminator adapter", "a critic or discriminator adapter needs a LoRA policy"),
    (f"{TRAIN} --guide tiny", "ppo works without a guide, got --guide tiny"),
    ("train ppo-pp --guide nowhere", "no language model could be loaded as 'nowhere'"),
    ("train ppo-pp --guide own.py", "--guide own.py is a file without a function; write own.py:FUNCTION"),
    ("train ppo-pp --guide own:numbers", "the guide own.numbers must return strings"),
    ("train ppo-pp --guide own:missing", "own.py has no function of the name missing"),
    ("train ppo-pp --guide http://localhost:8000#gpt2", "write http://localhost:8000/v1#gpt2"),
    ("train ppo-pp --guide http://localhost:8000/v1", "must name the model of the server after #"),
    ("train ppo-pp --guide http://me:S3CRET@localhost/v1#m", "in the environment variable TRIL_GYM_SERVER_KEY"),
    ("train ppo-pp --guide http://127.0.0.1:9/v1#m --guide-retries 0", "does not answer"),
    ("train ppo-pp --guide-cache answers", "--guide-cache is for a guide behind a server"),
    ("train ppo-pp --guide references --guide-temperature 0.5", "--guide-temperature is for a guide that is"),
    ("train gail --discriminator nowhere", "no sequence classifier could be loaded as 'nowhere'"),
    (
        "train gail --reference-baseline --positive-only",
        "reference_baseline needs exactly one discriminator reward per reference",
    ),
    # data
    (f"{TRAIN} --dataset nowhere", '--dataset must be "embedded", "hub"'),
    (f"{TRAIN} --dataset ''", "--dataset must be a text that is not empty, got ''"),
    (f"{TRAIN} --dataset empty.jsonl", "empty.jsonl has no usable row: it is empty"),
    (f"{TRAIN} --dataset one.jsonl", "one.jsonl has too few examples, 1, to hold 10% out"),
    (f"{TRAIN} --dataset words.jsonl", "words.jsonl, line 1: not a line of JSON"),
    (f"{TRAIN} --dataset list.jsonl", "list.jsonl, line 1: a row must be a JSON object, got [1, 2]"),
    (f"{TRAIN} --dataset latin1.jsonl", "latin1.jsonl, line 1: not a line of JSON: 'utf-8' codec"),
    (f"{TRAIN} --dataset halves.jsonl", "halves.jsonl, line 1: prompt has '\\ud83d' at character"),
    (f"{TRAIN} --dataset deep.jsonl", "deep.jsonl, line 1: its JSON is nested too deeply"),
    (f"{TRAIN} --dataset notes.txt", "notes.txt must end in .jsonl"),
    (f"{TRAIN} --dataset semicolons.csv", "semicolons.csv, line 1: columns are separated by commas, not ';'"),
    (f"{TRAIN} --dataset twice.csv", "twice.csv, line 1: the column 'concepts' occurs twice"),
    (f"{TRAIN} --dataset short.csv", "short.csv, line 2: a row must have 2 cells"),
    (f"{TRAIN} --dataset bad.parquet", "bad.parquet is not a Parquet file, or a damaged one"),
    (f"{TRAIN} --dataset flipped.jsonl.gz", "flipped.jsonl.gz, line "),
    (f"{TRAIN} --dataset cut.jsonl.gz", "cut.jsonl.gz, line "),
    (f"{TRAIN} --dataset empty_folder", "empty_folder has no train split"),
    (f"{TRAIN} --dataset half", "half has no validation split to evaluate on"),
    (f"{TRAIN} --dataset two", "two has train.jsonl and train.csv; a split must be one file"),
    (f"{TRAIN} --eval-dataset empty_folder", "empty_folder has no validation split"),
    (f"{TRAIN} --dataset none.jsonl", "needs at least 2 train examples with references, got 0"),
    ("train bc --dataset none.jsonl --reward end_bonus", "bc with these settings learns from references, and example"),
    ("train bc --env tril/Text-v0 --dataset questions.jsonl", "('2 + 41 =') of tril/Text-v0 has none; use data with"),
    (f"{TRAIN} --env tril/Text-v0 --dataset questions.jsonl {MATCH}", "('2 + 41 =') cannot be scored: exact_match"),
    (
        f"{TRAIN} --env tril/Text-v0 --dataset held_out.jsonl {MATCH}",
        "('2 + 40 =') cannot be scored: exact_match compares with extras['answer'], one or more answers, got None",
    ),
    (f"{TRAIN} --dataset some.jsonl --reward end_bonus", "has no reference to pretrain on, while others may have"),
    (
        f"{TRAIN} --env tril/IMDB-v0 --dataset reviews.jsonl",
        "line 1: label must be 1 (positive) or 0 (negative), got 2",
    ),
    (f"{TRAIN} --env tril/IMDB-v0 --dataset sets.jsonl", "no column 'text'; found concepts, references"),
    # the environment
    (f"{TRAIN} --env tril/Nope-v0", "no environment 'tril/Nope-v0'"),
    (f"{TRAIN} --env CartPole-v1", "CartPole-v1 cannot be created with autoreset_mode"),
    (f"{TRAIN} --env nosuch:Env-v0", "nosuch cannot be imported: ModuleNotFoundError"),
    (f"{TRAIN} --env unfinished:Env-v0", "unfinished cannot be imported: SyntaxError"),
    (f"{TRAIN} --env tril/Toy-v0 --dataset sets.jsonl", "creates its own examples, got the data set sets.jsonl"),
    (f"{TRAIN} --env tril/Toy-v0 --env-arg rule=nope", "rule must be one of count, sparse, prefix, stop, got 'nope'"),
    (
        f"{TRAIN} --env tril/Toy-v0 --env-arg vocab_size=1000000000000",
        "vocab_size must be a whole number of at least 4",
    ),
    (f"{TRAIN} --env-arg bogus=1", "unexpected keyword argument 'bogus'"),
    (f"{TRAIN} --env-arg bogus", "'bogus' is not of the form name=value"),
    (f"{TRAIN} --env-arg split=test", "--env-arg split=test would override what the run chooses"),
    (f"{TRAIN} --env-arg num_envs=3", "--env-arg num_envs=3 would override what the run chooses; use --num-envs"),
    (f"{TRAIN} --env-arg max_new_tokens=0", "max_new_tokens must be a whole number of at least 1"),
    (f"{TRAIN} --env-arg max_new_tokens=NaN", "max_new_tokens must be a whole number of at least 1"),
    (f"{TRAIN} --env-arg max_new_tokens=10000000000", "and at most 1000000, got 10000000000"),
    (f"{TRAIN} --env-arg max_prompt_length=2", "max_prompt_length is too short for example"),
    (f"{TRAIN} --env-arg min_new_tokens=50", "min_new_tokens must be at most max_new_tokens = 20, got 50"),
    (f"{TRAIN} --env-arg tokenizer=nowhere", "no tokenizer could be loaded from 'nowhere'"),
    (f"{TRAIN} --env-arg tokenizer=fit:3", "tokenizer must be fit or fit:N"),
    (f"{TRAIN} --env-arg vocab_size=5", "vocab_size must cover the tokenizer"),
    (f"{TRAIN} --env-arg reward_settings=3", "reward_settings must be settings by the name of a reward"),
    (
        f"{TRAIN} --env-arg reward_settings=3 --reward-arg rouge_l.reduction=max",
        "reward_settings must be settings by the name of a reward",
    ),
    (f"{TRAIN} --env-arg max_new_tokens=5 --env-arg max_new_tokens=9", "max_new_tokens is given twice"),
    (f"{TRAIN} --env-arg column=x --column references=y", "column is given twice, as --column and as --env-arg; leave"),
    (f"{TRAIN} --env-arg prompt_template=x", "prompt_template must be a format of {concepts} and nothing else"),
    # algorithms
    ("train own.py", "the algorithm own.py is a file without a class; write own.py:CLASS"),
    ("train own.py:Nothing", "own.py has no class of the name Nothing"),
    ("train own.py:NotScore", "must be a class that extends tril_gym.agents.Agent"),
    ("train nowhere.py:Mine", "there is no file 'nowhere.py'"),
    # rewards
    (f"{TRAIN} --reward nope", "unknown reward 'nope'"),
    (f"{TRAIN} --reward rouge_l=0.5", "'rouge_l=0.5' is not of the form NAME:WEIGHT"),
    (f"{TRAIN} --reward own.py", "reward own.py is a file without a function; write own.py:FUNCTION"),
    (f"{TRAIN} --reward sacre_bleu", "sacre_bleu is a corpus metric"),
    (f"{TRAIN} --reward rouge_l:nan", "the weight in 'rouge_l:nan' must be a number in [-1000000, 1000000]"),
    (
        f"{TRAIN} --reward rouge_l --reward-arg rouge_l.workers=2 --reward-arg rouge_l.workers=3",
        "rouge_l.workers is given twice",
    ),
    (f"{TRAIN} --reward rouge_l --reward rouge_l:2", "the reward 'rouge_l' is given twice"),
    (
        f"{TRAIN} --reward rouge_l --reward-arg rouge_l.reduction=median",
        "reduction must be one of max, mean, got 'median'",
    ),
    (f"{TRAIN} --reward bleu --reward-arg bleu.smooth_value=x", "smooth_value must be a number of at least 0"),
    (f"{TRAIN} --reward choice --reward-arg choice.options=3", "options must be the name of an extra, got 3"),
    (f"{TRAIN} --reward meteor --reward-arg meteor.memory=3", "memory must be a number with k, m or g"),
    (f"{TRAIN} --reward rouge_l --reward-arg bleu.x=1", "reward_settings has 'bleu', which is no term of the reward"),
    (
        f"{TRAIN} --reward exact_match --reward-arg exact_match.ignore_case=no",
        "ignore_case of the reward exact_match must be True or False, got 'no'; write False",
    ),
    (f"{TRAIN} --reward rouge_l --reward-arg rouge_l.workers=two", "workers must be at least 1 process"),
    (f"{TRAIN} --reward sentiment", "sentiment fits a classifier on at least 20 train examples with label"),
    (f"{TRAIN} --reward preference", "preference has no model; pass model=NAME"),
    (f"{TRAIN} --reward own:one_short", "one number per text is needed, got float64 of shape (2,) for 3 texts"),
    (f"{TRAIN} --reward own:nothing", "one number per text is needed, got None (no `return`?) for 3 texts"),
    (f"{TRAIN} --reward own:strings", "one number per text is needed, got a list of str for 3 texts"),
    (f"{TRAIN} --reward own:not_a_number", "reward 'not_a_number' gave nan for the text"),
    (f"{TRAIN} --reward own:two", "reward 'two' has the parameters (a, b)"),
    (f"{TRAIN} --reward own:three", "three in {folder}/own.py is not a function, but 3"),
    (f"{TRAIN} --reward own:NotScore", "own:NotScore must be a subclass of tril_gym.rewards.Score"),
    (f"{TRAIN} --reward unfinished:f", "unfinished cannot be imported: SyntaxError"),
    # folders
    (f"{TRAIN} --output-dir notes.txt", "--output-dir notes.txt is a file"),
    (f"{TRAIN} --output-dir notes.txt/run", "--output-dir notes.txt/run cannot be created: {folder}/notes.txt is no"),
    (f"{TRAIN} --output-dir taken", "--output-dir taken is not empty"),
    (f"{TRAIN} --resume", "--resume needs --output-dir"),
    (f"{TRAIN} --resume --output-dir taken", "taken is no run folder"),
    # groups, pairs and guides
    ("train dpo --env tril/IMDB-v0", "example 0 has no pair: the preferred text is its first reference"),
    ("train ipo --env tril/Toy-v0", "has no pair: the preferred text is its first reference"),
    ("train dpo --dataset some_pairs.jsonl", "has no pair: the preferred text is its first reference"),
    ("train dpo --dataset sets.jsonl", "there is no column 'prompt'; found concepts, references"),
    ("train dpo --loss ipo --label-smoothing 0.1", "label_smoothing is for the loss dpo only, got 0.1 with ipo"),
    (
        "train rebel --env tril/Text-v0 --dataset pairs.jsonl",
        "rebel learns from rewards, and this environment has none",
    ),
    (f"train rloo {TOY} --texts-per-prompt 1", "--texts-per-prompt must be at least 2 for the advantage leave_one_out"),
    (
        f"train rloo {TOY} --num-envs 14",
        "a multiple of texts_per_prompt texts, 4, got 14; use episodes_per_iteration 16",
    ),
    (f"train rso {TOY} --accepted-texts 9", "--accepted-texts must be at most the 8 candidates of a prompt"),
    (f"train raft {TOY} --best-texts 5", "--best-texts must be at most the 4 texts of a prompt"),
    (f"train a-lol {TOY} --kl-coef 0.1", "kl_coef is of the variant kl, got 0.1 with ratio"),
    (f"train apa {TOY} --apa-anchor reference", "kl_coef must be 0 with apa_anchor reference"),
    (
        f"train gkd {TOY} --guide references",
        "references give tokens, and loss jsd needs distributions; use dagger",
    ),
    (f"train dagger {TOY} --guide own:numbers", "--guide own:numbers fails on first texts"),
    (f"train rloo {TOY} --guide tiny", "rloo works without a guide, got --guide tiny; leave it out"),
    (f"train grpo {TOY} --given-shaping 0.2", "--given-shaping 0.2 has no effect here: --given-texts is 0"),
    (f"train grpo {TOY} --gamma 0.9", "--gamma 0.9 has no effect here: --advantage is standardised"),
    (f"train grpo {TOY} --kl-estimator k2", "kl_estimator is for the KL in the rewards only, got k2 with kl_in loss"),
    (f"train gspo {TOY} --length-norm sum", "length_norm is for losses of single tokens, got sum with ratio text"),
    (f"train cispo {TOY} --clip-range 0.1", "--clip-range 0.1 has no effect here: --ratio is weight"),
    (f"train d2lols {TOY} --hand-over-margin 1", "--hand-over-margin 1.0 has no effect here: --hand-over is iteration"),
    # evaluation and reward models
    ("evaluate nowhere", "'nowhere' is no run folder, so it is taken for a model, and a model needs --env"),
    ("evaluate empty_folder --env tril/CommonGen-v0", "no language model could be loaded as 'empty_folder'"),
    ("evaluate nowhere --env tril/CommonGen-v0 --num-envs 99999999999", "--num-envs must be in [1, 100000]"),
    ("evaluate tiny --env tril/CommonGen-v0", "tiny is created by training"),
    ("evaluate nowhere --env tril/CommonGen-v0 --env-arg split=train", "--env-arg split=train would override"),
    ("evaluate nowhere --env tril/CommonGen-v0 --split dev", "'dev' is not one of 'train', 'validation', 'test'"),
    (f"evaluate nowhere {TOY} --split train", "tril/Toy-v0 creates its own examples, which have no splits; leave"),
    (
        f"evaluate nowhere {TOY} --dataset sets.jsonl",
        "tril/Toy-v0 creates its own examples, got the data set sets.jsonl",
    ),
    ("evaluate nowhere --env tril/CommonGen-v0 --output no/x.json", "--output no/x.json: there is no folder no"),
    ("evaluate nowhere --env tril/CommonGen-v0 --seed 99999999999", "99999999999 is not in the range"),
    (
        "sample nowhere hello --greedy --samples 3",
        "--greedy writes the most probable tokens, once for each prompt; leave",
    ),
    ("sample nowhere hello --greedy --temperature 2", "once for each prompt; leave --temperature out"),
    ("sample nowhere hello --seed 99999999999", "99999999999 is not in the range"),
    ("train reward-model", "--dataset is missing"),
    ("train reward-model --env tril/TLDR-v0", "--env tril/TLDR-v0 has no pairs of completions"),
    ("train reward-model --env tril/Toy-v0", "tril/Toy-v0 creates its own examples"),
    ("train reward-model --env tril/HH", "unknown environment 'tril/HH'"),
    ("train reward-model --dataset nowhere", "there is no file or folder nowhere"),
    ("train reward-model --dataset sets.jsonl", "no column 'prompt'; found concepts, references"),
    ("train reward-model --dataset sets.jsonl --learning-rate 1e30", "--learning-rate must be in (0, 1], got 1e+30"),
)


def write_files(folder: Path) -> None:
    """Write the files that the commands name."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
