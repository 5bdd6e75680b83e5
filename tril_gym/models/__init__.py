"""Language models of `transformers`: reading, decoding, LoRA, loading."""
