"""The program `normfold`: Ctrl-C ends it at once until its modules are imported."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # KeyboardInterrupt can be lost during imports: Python ignores it in callbacks of the import system.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from normfold.cli.main import main as run

    run()
