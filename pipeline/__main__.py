"""`python -m pipeline …` is `fullgrad …`."""

import sys

from fullgrad_beam import main

sys.exit(main())
