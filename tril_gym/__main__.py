"""Run `python -m tril_gym` as `tril-gym`."""

from tril_gym.cli import main

main()
