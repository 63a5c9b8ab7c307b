"""`python -m ts_otel_logging._cli`."""

import sys

from ts_otel_logging._cli import main

sys.exit(main())
