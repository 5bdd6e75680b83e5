"""Imports are light: heavy packages are loaded where they are used."""

import subprocess
import sys
import tomllib

import paths
from contract_checks import IDS

import tril_gym

HEAVY = ("torch", "datasets", "spacy", "peft", "wandb", "accelerate", "sacrebleu", "rouge_score", "sklearn", "pyarrow")

SCRIPT = """
import gymnasium as gym
import sys
import tril_gym
for env_id in {env_ids}:
    # Lengths that are measured are logged on standard error.
    sizes = {{"max_prompt_length": 20, "max_new_tokens": 4}} if env_id == "tril/Text-v0" else {{}}
    env = gym.make(env_id, **sizes)
    env.reset(seed=0)
    env.step(5)
    envs = gym.make_vec(env_id, num_envs=2, **sizes)
    envs.reset(seed=0)
    envs.step([5, 5])
    assert not set(sys.modules).intersection({heavy}), env_id
"""


def loaded_by(code):
    code += f"\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


def test_making_and_stepping_loads_nothing_heavy():
    assert loaded_by(SCRIPT.format(env_ids=list(IDS), heavy=HEAVY)) == []


def test_import_registers_and_loads_no_transformers():
    code = "import sys, tril_gym, gymnasium; assert 'tril/Toy-v0' in gymnasium.registry"
    assert loaded_by(f"{code}; assert 'transformers' not in sys.modules") == []


def test_the_check_detects_a_heavy_import():
    assert loaded_by("import pyarrow") == ["pyarrow"]


TRAIN = """
from tril_gym.cli import main
toy = "train ppo --env tril/Toy-v0 --tiny-samples 0 --num-envs 2 --eval-examples 2 --iterations 1 --epochs 1"
main([*toy.split(), "--output-dir", {folder!r}], standalone_mode=False)
import sys
assert not {{"datasets", "spacy", "nltk", "rouge_score", "wandb", "peft"}} & set(sys.modules)
"""


def test_training_loads_nothing_that_it_does_not_use(tmp_path):
    assert "datasets" not in loaded_by(TRAIN.format(folder=str(tmp_path / "run")))


def test_an_id_can_name_the_package():
    code = "import gymnasium as gym; gym.make('tril_gym:tril/Toy-v0').reset(); gym.make_vec('tril_gym:tril/Toy-v0')"
    assert loaded_by(code) == []


def test_version():
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    assert tril_gym.__version__ == project["version"]
