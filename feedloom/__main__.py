"""`python -m feedloom` is `feedloom`."""

from feedloom.cli import main

main()
