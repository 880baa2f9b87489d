"""
Tuner's page, here and as a Hugging Face Space:

    python app.py                    http://127.0.0.1:7860
    python app.py --help             where it listens, where the runs are kept

What is in it: tuner/ui/app.py. The same from a shell: python -m tuner --help.
"""

import sys


def main() -> None:
    """Serve the page until the process is ended."""
    # All of it here, because the helper process that reads data imports this file too, and needs
    # none of it. Where libraries keep their files is settled before the first of them is imported.
    from tuner.hub.space import settle_storage

    for notice in settle_storage():
        print(notice, file=sys.stderr)
    from tuner.ui.app import serve
    from tuner.ui.options import read_options

    serve(read_options())


if __name__ == "__main__":
    main()
