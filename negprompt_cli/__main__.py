"""`python -m negprompt_cli` is `negprompt`."""

from negprompt_cli.cli import main

if __name__ == "__main__":
    main()
