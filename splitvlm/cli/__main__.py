"""`python -m splitvlm.cli VERB`."""

from splitvlm.cli import main

main()
