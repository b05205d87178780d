"""Generated input for everything that parses input, with invariants that hold whatever the input is.

`parsers.py` has a target for each parser in Python, which atheris drives by coverage. `wire.py` mutates requests and
responses between a client, a running Strake and a provider. `make fuzz` runs both for as long as it is told. `corpus/`
holds the seeds and what was found, and `test_parsers.py` and `test_wire.py` replay them in seconds.
"""
