"""`python -m pipeline …` is `fullgrad …`."""

import sys

from pipeline.cli import main

sys.exit(main())
