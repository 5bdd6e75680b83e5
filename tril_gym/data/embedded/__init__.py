"""Small data sets of our own writing, each with a tokenizer, so that the tasks need no network; see `build.py`."""
