"""The gunicorn worker: uvicorn with the settings that forwarding byte for byte needs."""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker


class Worker(UvicornWorker):  # type: ignore[misc]
    """No headers of the server's own beside the provider's, no access log (it would hold paths and addresses)."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "httptools",
        "ws": "websockets-sansio",
        "lifespan": "on",
        "proxy_headers": False,
        "server_header": False,
        "date_header": False,
        "access_log": False,
        "h11_max_incomplete_event_size": 64 * 1024,
    }
