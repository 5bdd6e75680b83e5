"""Templates: texts with fields in braces, such as "concepts: {concepts}. sentence:", which `str.format` fills."""

from __future__ import annotations

from collections.abc import Collection
from string import Formatter
from typing import Any


def check_fields(name: str, template: Any, *, required: Collection[str], allowed: Collection[str], usual: str) -> None:
    """Check that a template has the required fields, and no fields but the allowed ones.

    Args:
        name: of the setting, for the message.
        template: what is checked.
        required: fields that it must have.
        allowed: fields that it may have.
        usual: the usual template, for the message.

    Raises:
        ValueError: it has other fields, or is no template at all.
    """
    try:
        found = fields_of(template)
        template.format(**dict.fromkeys(allowed, ""))
    except (ValueError, TypeError, LookupError, AttributeError):
        found = set()
    if not set(required) <= found <= set(allowed):
        words = " and ".join(f"{{{field}}}" for field in allowed)
        raise ValueError(
            f"{name} must be a format of {words} and nothing else, got {template!r}; the usual one is {usual!r}, and a"
            " literal brace is written {{"
        )


def fields_of(template: str) -> set[str]:
    """Return the names of a template's fields."""
    return {field for _, field, _, _ in Formatter().parse(template) if field is not None}


def literals(template: str) -> list[str]:
    """Return the texts before, between and after the fields of a template: one more than it has fields."""
    parts = list(Formatter().parse(template))
    texts = [text for text, _, _, _ in parts]
    return texts if parts and parts[-1][1] is None else [*texts, ""]
