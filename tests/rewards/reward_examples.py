from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """What rewards read of an example."""

    prompt: str = ""
    references: tuple[str, ...] = ()
    label: int | None = None
    extras: dict = field(default_factory=dict)
