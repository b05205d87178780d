"""What a Compose file says of a service, as arguments of `podman run`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.container import podman
from tests.support.running import ROOT

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def load(name: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Read a file of the checkout, with `values` in the place of its variables."""

    def value_of(match: re.Match[str]) -> str:
        found = values.get(match[1], "") or (match[3] if match[2] == "-" else "")
        assert found or match[2] != "?", match[0]
        return found or ""

    document: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(value_of, (ROOT / name).read_text()))
    return document


def secret_files(document: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """The files of all secrets, in `folder` in the place of the checkout."""
    return {name: folder / one["file"] for name, one in document["secrets"].items()}


def options(service: Mapping[str, Any], secrets: Mapping[str, Path], volumes: Mapping[str, str]) -> list[str]:
    """The arguments of `podman run`. `volumes` has the name of the volume that stands for each of the file's."""
    result = ["--read-only"] * bool(service.get("read_only"))
    result += [f"--tmpfs={path}" for path in service.get("tmpfs", [])]
    result += [f"--cap-drop={name}" for name in service.get("cap_drop", [])]
    result += [f"--security-opt={text.removesuffix(':true')}" for text in service.get("security_opt", [])]
    result += podman.variables(service.get("environment", {}))
    result += [f"--volume={secrets[name]}:/run/secrets/{name}:ro" for name in service.get("secrets", [])]
    for text in service.get("volumes", []):
        name, _, rest = text.partition(":")
        result.append(f"--volume={volumes[name]}:{rest}")
    if "entrypoint" in service:
        program, *arguments = service["entrypoint"]
        assert all(" " not in argument for argument in arguments)
        result.append(f"--entrypoint={_json([program, *arguments])}")
    return result


def _json(words: list[str]) -> str:
    import json

    return json.dumps(words)


def create_volume(name: str, volume: Mapping[str, Any] | None) -> None:
    """A volume as the file describes it."""
    chosen = (volume or {}).get("driver_opts", {})
    podman.podman("volume", "create", *(f"--opt={key}={value}" for key, value in chosen.items()), name)
