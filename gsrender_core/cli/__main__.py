"""``python -m gsrender_core.cli``, as torchrun starts it."""

import sys

from gsrender_core.cli import main

sys.exit(main())
