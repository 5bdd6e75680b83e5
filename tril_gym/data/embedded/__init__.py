"""Small data sets made by grammars, each with a tokenizer, so that environments need no network; see `build.py`."""
