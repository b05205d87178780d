"""One target under atheris: `python -m tests.fuzz.instrumented TARGET [options of libFuzzer] FOLDER…`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["accounts", "credentials", "proxy", "strake", "tests.fuzz"]):
    from tests.fuzz.parsers import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
