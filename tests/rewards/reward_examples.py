from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """The fields of an example that rewards read."""

    prompt: str = ""
    references: tuple[str, ...] = ()
    label: int | None = None
    extras: dict = field(default_factory=dict)
