"""From rows to examples: readers, sources, tokenizers, embedded data sets."""
