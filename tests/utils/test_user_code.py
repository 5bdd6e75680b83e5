"""Names of the form module:function: recognition, resolution, and messages."""

import sys

import pytest

from tril_gym.utils.user_code import import_user_module, is_function_name, resolve_function

CODE = "def f():\n    return 1\n\nclass C:\n    pass\n\nnumber = 3\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make the current folder one with a module, and restore the import state afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "my_code.py").write_text(CODE)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "inner.py").write_text(CODE)
    yield tmp_path
    for name in ("my_code", "my_package", "my_package.inner", "broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("module:f", True),
        ("package.module:f", True),
        ("rouge_l", False),
        ("owner/name", False),
        ("rouge_l:0.5", False),
        ("module:", False),
        ("module:f.g", False),
    ],
)
def test_form_of_a_name(name, expected):
    assert is_function_name(name) is expected


def test_an_existing_file_is_not_a_function_name(folder):
    assert is_function_name("my_code:f")
    (folder / "my_code:f").mkdir()
    assert not is_function_name("my_code:f")


def test_functions_and_classes_of_the_current_folder(folder):
    assert resolve_function("my_code:f", option="--guide my_code:f")() == 1
    assert resolve_function("my_package.inner:f", option="--guide my_package.inner:f")() == 1
    assert isinstance(resolve_function("my_code:C", option="reward my_code:C"), type)
    assert import_user_module("my_code").number == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:f", "--guide X .* no such module .*no_such_module"),
        ("my_code:missing", "--guide X: .*my_code.py has no function of the name missing"),
        ("my_code:number", "--guide X: number in .*my_code.py is not a function, but 3"),
    ],
)
def test_messages_name_option_and_reason(folder, name, message):
    with pytest.raises(ValueError, match=message):
        resolve_function(name, option="--guide X")


def test_an_error_inside_the_module_is_not_hidden(folder):
    (folder / "broken.py").write_text("import os\nos.no_such_attribute\n")
    with pytest.raises(ValueError, match=r"broken cannot be imported: AttributeError: .*no_such_attribute") as error:
        resolve_function("broken:f", option="--guide broken:f")
    assert isinstance(error.value.__cause__, AttributeError)
