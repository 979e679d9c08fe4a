"""``python -m flows.cli``: the command line without its installed script."""

from flows.cli import main

if __name__ == "__main__":
    main()
