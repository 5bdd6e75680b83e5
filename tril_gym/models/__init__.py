"""Language models of `transformers`: reading, decoding, LoRA, loading."""

__all__: list[str] = []
