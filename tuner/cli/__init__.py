"""
The command line: everything the page can do, from a shell.

    python -m tuner train --preset code --dataset tasks.json --set max_steps=60
    python -m tuner runs --json

With --json a command prints one JSON document on stdout and everything else on stderr.
Exit codes: 0 done, 1 failed, 2 bad input (nothing was started), 3 stopped.

`runs` and `show` answer at once: nothing that imports torch or transformers is imported here or in
a command's module, only inside the functions that need it.
"""

import typer

from tuner.cli import chat, deploy, estimate, export, preview, pull, push, run_commands, train
from tuner.cli.answers import answering

# Plain help and plain errors: rich costs a tenth of a second at every start.
app = typer.Typer(
    help="Fine-tune a language model on your own data with LoRA or QLoRA.",
    epilog="Begin with: python -m tuner train --preset chatbot",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

for command, example in (
    (train.train, "train --preset code --dataset tasks.json --set max_steps=60"),
    (preview.preview, "preview --preset code --dataset tasks.json --row 3"),
    (estimate.estimate, "estimate --base-model mistralai/Mistral-7B-Instruct-v0.3 --dataset a.csv"),
    (run_commands.runs, "runs --json"),
    (run_commands.show, "show support-bot"),
    (chat.chat, 'chat support-bot --prompt "Where is my order?"'),
    (run_commands.stop, "stop support-bot"),
    (train.resume, "resume support-bot"),
    (push.push, "push support-bot anna/support-bot"),
    (pull.pull, "pull anna/support-bot"),
    (deploy.deploy, "deploy anna/tuner --hardware t4-small --sleep 60"),
    (export.export, "export support-bot --as merged"),
    (run_commands.delete, "delete support-bot --yes"),
):
    app.command(epilog=f"Example: python -m tuner {example}")(answering(command))
