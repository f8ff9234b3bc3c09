"""python -m attnspec COMMAND ...: the program. The judge starts this file by its path to hold a kernel in Python:

    python __main__.py serve LIBRARY FILE.py[:FUNCTION] SOCKET MEMORY
"""

import sys

# Started by its path: this package, whatever else is called attnspec, and no folder of it in the path.
if not __package__:
    import os

    folder = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == folder:
        del sys.path[0]
    import importlib.util

    spec = importlib.util.spec_from_file_location("attnspec", os.path.join(folder, "__init__.py"),
                                                  submodule_search_locations=[folder])
    assert spec is not None and spec.loader is not None
    sys.modules["attnspec"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["attnspec"])

from attnspec.program import main

if __name__ == "__main__":
    sys.exit(main())
