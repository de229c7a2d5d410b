"""`python -m omgbench`."""

from omgbench.cli import main

if __name__ == "__main__":
    main()
