"""`python -m edgedistil …`, so that `torchrun -m edgedistil distill …` works."""

from edgedistil.cli import main

if __name__ == "__main__":
    main()
