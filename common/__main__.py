"""`python -m common` is the `drift` command, which is what launchers of many processes start."""

from common.cli import main

main()
