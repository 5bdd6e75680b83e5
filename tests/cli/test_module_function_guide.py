"""`--guide module:function`, and modules in the current folder."""

import json
import sys
from typing import Any

import gymnasium as gym
import pytest
from click.testing import CliRunner

from tril_gym.cli import main

MINE = """
asked = []
constant = 3

def name_the_concepts(prompts, completions):
    asked.append(len(prompts))
    return [" and ".join(prompt.split(":")[1].split(".")[0].split()) for prompt in prompts]
"""


class TestModuleFunction:
    SMALL = (
        "--tiny-samples",
        "64",
        "--num-envs",
        "8",
        "--eval-examples",
        "8",
        "--iterations",
        "2",
        "--lr-schedule",
        "constant",
    )

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

    def test_run_resume_and_evaluate(self, here):
        guide = ("--guide", "my_guides:name_the_concepts")
        self.call("train", "ppo-pp", *guide, *self.SMALL, "--output-dir", "whole")
        import my_guides

        begun = sum(row["rollin/share"] * 8 for row in self.figures(here / "whole"))
        assert sum(my_guides.asked) >= begun > 0  # a text of which nothing is left has no rollin
        self.call("train", "ppo-pp", *guide, *self.SMALL, "--output-dir", "parts", "--iterations", 1)
        text = self.call("train", "ppo-pp", "--output-dir", "parts", "--resume", "--iterations", 2, code=2)
        assert "--guide my_guides:name_the_concepts; if you trust it, add --trust-code" in " ".join(text.split())
        self.call("train", "ppo-pp", "--output-dir", "parts", "--resume", "--iterations", 2, *guide)
        assert self.figures(here / "parts") == self.figures(here / "whole")
        # An evaluation needs no guide, a resumed run does.
        (here / "my_guides.py").unlink()
        del sys.modules["my_guides"]
        self.call("evaluate", "whole", "--examples", 4)
        more = ("--resume", "--iterations", 3, "--trust-code")
        text = self.call("train", "ppo-pp", "--output-dir", "whole", *more, code=2)
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
    def test_mistakes_are_explained(self, here, guide, words):
        text = self.call("train", "ppo-pp", "--guide", guide, *self.SMALL, code=2)
        assert all(word in " ".join(text.split()) for word in words), text
        assert "Traceback" not in text
        assert [path.name for path in here.iterdir() if path.name not in ("my_guides.py", "__pycache__")] == []

    def test_folder_of_that_name_is_a_model(self, here):
        (here / "my_guides:name_the_concepts").mkdir()
        text = self.call("train", "ppo-pp", "--guide", "my_guides:name_the_concepts", *self.SMALL, code=2)
        assert "no language model could be loaded" in text

    def test_own_environment_is_imported_from_the_current_folder(self, here):
        (here / "my_envs.py").write_text(
            "import gymnasium as gym\nfrom tril_gym.registration import make_text_env\n"
            "gym.register('mine/Toy-v0', entry_point='my_envs:make')\n"
            "def make(**keywords):\n    return make_text_env('tril/Toy-v0', **keywords)\n"
        )
        try:
            self.call("train", "ppo", "--env", "my_envs:mine/Toy-v0", *self.SMALL, "--output-dir", "run")
        finally:
            gym.registry.pop("mine/Toy-v0", None)

    def test_help_names_module_function(self):
        assert "module:function" in self.call("train", "ppo-pp", "--help")
