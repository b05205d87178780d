#!/usr/bin/env python3
"""runc for a root without CAP_SYS_RESOURCE, who may not raise limits: takes them out of what Podman asks for."""

import itertools
import json
import os
import sys
from pathlib import Path


def main() -> None:
    arguments = sys.argv[1:]
    for option, value in itertools.pairwise(arguments):
        if option in {"--bundle", "-b"}:
            _drop_limits(Path(value, "config.json"))
        elif option in {"--process", "-p"}:
            _drop_limits(Path(value))
    os.execvp("runc", ["runc", *arguments])


def _drop_limits(path: Path) -> None:
    """Change a bundle's configuration, or the process of an exec."""
    document = json.loads(path.read_text())
    document.get("process", document).pop("rlimits", None)
    path.write_text(json.dumps(document))


if __name__ == "__main__":
    main()
