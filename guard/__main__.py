"""`python -m guard` is the same as `guard`."""

from guard.cli import main

main()
