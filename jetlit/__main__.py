"""`python -m jetlit`."""

import sys

from jetlit.cli import main

if __name__ == "__main__":
    sys.exit(main())
