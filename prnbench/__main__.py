"""``python -m prnbench``."""

from prnbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
