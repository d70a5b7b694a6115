"""``python -m fsbackup``: the command line without an installed script."""

import sys

from fsbackup.cli import main

sys.exit(main())
