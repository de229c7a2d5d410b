"""`python -m omg_llava`."""

import sys

from omg_llava.command import main

if __name__ == "__main__":
    sys.exit(main())
