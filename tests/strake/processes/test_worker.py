"""The gunicorn worker of the proxy half."""

from __future__ import annotations

import asyncio
import time

import pytest
from uvicorn import Config, Server

from strake.processes.worker import Worker


def test_worker_reports_after_the_time_of_day_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[float] = []

    async def report() -> None:
        reports.append(time.time())

    server = Server(Config(None, callback_notify=report, timeout_notify=Worker.CONFIG_KWARGS["timeout_notify"]))  # type: ignore[arg-type]
    asyncio.run(server.on_tick(0))
    now = time.time()
    monkeypatch.setattr("uvicorn.server.time.time", lambda: now - 86400)
    asyncio.run(server.on_tick(10))
    assert len(reports) == 2
