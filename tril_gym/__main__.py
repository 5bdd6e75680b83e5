"""`python -m tril_gym` is `tril-gym`."""

from tril_gym.cli import main

main()
