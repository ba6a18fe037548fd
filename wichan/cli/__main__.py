"""``python -m wichan.cli`` is ``wichan``."""

from wichan.cli import main

main()
