"""`python -m neo_lightning ...` is `neo-lightning ...`; launchers such as torchrun start it that way."""

import sys

from neo_lightning.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
