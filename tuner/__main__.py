"""`python -m tuner`: the command line. See cli/."""

from tuner.cli import app

if __name__ == "__main__":
    app(prog_name="python -m tuner")
