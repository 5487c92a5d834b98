"""`python -m imagereward_core` is the command `imagereward`. One of the two names of the core that look up the
house.
"""

from imagereward_cli.main import main

raise SystemExit(main())
