"""`python -m imagereward_core` is the command `imagereward`."""

from .cli import main

raise SystemExit(main())
