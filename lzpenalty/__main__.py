"""`python -m lzpenalty` is the command `lzpenalty`."""

import sys

from lzpenalty.cli import main

sys.exit(main())
