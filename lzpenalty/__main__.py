"""`python -m lzpenalty` is the command `lzpenalty`."""

import sys

from lzpenalty.commands.cli import main

sys.exit(main())
