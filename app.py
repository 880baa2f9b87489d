"""
Tuner's page, here and as a Hugging Face Space:

    python app.py                    http://127.0.0.1:7860
    python app.py --help             where it listens, where the runs are kept

What is in it: tuner/ui/app.py. The same from a shell: python -m tuner --help.
"""


def main() -> None:
    """Serve the page until the process is ended."""
    # Here, because the helper process that reads data imports this file too, and needs none of it.
    from tuner.ui.app import serve
    from tuner.ui.options import read_options

    serve(read_options())


if __name__ == "__main__":
    main()
