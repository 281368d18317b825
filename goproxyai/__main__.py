"""``python -m goproxyai``: the command ``goproxyai``."""

from goproxyai.cli.main import run_command

if __name__ == "__main__":
    run_command()
