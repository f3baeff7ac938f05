"""``python -m polywire`` is the command ``polywire``."""

from polywire.cli import main

main()
