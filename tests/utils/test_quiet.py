"""Warnings on the command line: one line, without the code that gave them."""

import warnings

from tril_gym.utils.quiet import warnings_without_source

PLACE = (UserWarning, "module.py", 7, "warnings.warn(…)")


def test_a_warning_is_one_line():
    usual = warnings.formatwarning("it rounds", *PLACE)
    with warnings_without_source():
        assert warnings.formatwarning("it rounds", *PLACE) == "warning: it rounds\n"
    assert "module.py" in usual
    assert warnings.formatwarning("it rounds", *PLACE) == usual
