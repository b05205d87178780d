"""What a pod says of its containers, as arguments of `podman run`, with volumes and groups as kubelet makes them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.container import podman
from tests.container.podman import Container


class Pod:
    """One pod of the manifest. `folder` holds its volumes, and `secrets` the content of the Secrets, by their names."""

    def __init__(
        self, spec: Mapping[str, Any], values: Mapping[str, str], secrets: Mapping[str, Mapping[str, str]], folder: Path
    ) -> None:
        self.spec, self._values, self._folder = spec, values, folder
        self._group = spec["securityContext"]["fsGroup"]
        self._tmpfs: list[Path] = []
        for volume in spec["volumes"]:
            self._create_volume(volume, secrets)

    def container(self, name: str, network: str = "", port: int = 0) -> Container:
        """A container of the pod, in the network of another one, or with its own, where `port` leads to its 8000."""
        (one,) = (found for found in self._all() if found["name"] == name)
        options = [*self._rights(one), *self._mounts(one), *self._environment(one), "--no-healthcheck"]
        options += [f"--network=container:{network}"] if network else []
        options += [f"--publish=127.0.0.1:{port}:8000"] if port else []
        if "command" in one:
            options.append(f"--entrypoint={json.dumps(one['command'])}")
        return Container(options, one["args"], port=port)

    def remove(self) -> None:
        for mounted in self._tmpfs:
            subprocess.run(["umount", mounted], check=False, timeout=60)

    def _all(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def _rights(self, one: Mapping[str, Any]) -> list[str]:
        pod, own = self.spec["securityContext"], one["securityContext"]
        result = [f"--user={pod['runAsUser']}:{pod['runAsGroup']}", f"--group-add={pod['fsGroup']}"]
        result += ["--read-only", "--read-only-tmpfs=false"] * own["readOnlyRootFilesystem"]
        result += ["--security-opt=no-new-privileges"] * (not own["allowPrivilegeEscalation"])
        return result + [f"--cap-drop={name}" for name in own["capabilities"]["drop"]]

    def _mounts(self, one: Mapping[str, Any]) -> list[str]:
        result = []
        for mount in one["volumeMounts"]:
            suffix = ":ro" if mount.get("readOnly") else ""
            result.append(f"--volume={self._folder / mount['name']}:{mount['mountPath']}{suffix}")
        return result

    def _environment(self, one: Mapping[str, Any]) -> list[str]:
        return podman.variables({**self._values, **{found["name"]: found["value"] for found in one["env"]}})

    def _create_volume(self, volume: Mapping[str, Any], secrets: Mapping[str, Mapping[str, str]]) -> None:
        path = self._folder / volume["name"]
        path.mkdir(parents=True)
        if "emptyDir" in volume:
            assert volume["emptyDir"]["medium"] == "Memory"
            size = volume["emptyDir"]["sizeLimit"].removesuffix("i")
            # As kubelet: for everybody, and with fsGroup for the group, which new files inherit.
            options = f"size={size},mode=2777,gid={self._group}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True, timeout=60)
            self._tmpfs.append(path)
            return
        secret = volume["secret"]
        os.chown(path, 0, self._group)
        path.chmod(0o2750)
        for name, content in secrets[secret["secretName"]].items():
            file = path / name
            file.write_text(content)
            os.chown(file, 0, self._group)
            file.chmod(secret["defaultMode"])
