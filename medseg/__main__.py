"""Runs `python -m medseg` and the `medseg` script."""

import sys

from medseg.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
