"""``python -m lafr`` is the console command ``lafr``."""

import sys

from lafr.cli import main

sys.exit(main())
