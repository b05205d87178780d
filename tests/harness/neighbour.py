"""What a neighbour of a hostile account does all the time: call, stream, sign in, read pages. It counts failures."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from tests.support.load import Client, Sample
from tests.support.running import Endpoint, Strake

CONNECTIONS = 4
STREAMS = 3
PAUSE = 0.01  # seconds between two calls of a connection
PAGES = ("/endpoints/", "/activity/", "/settings/", "/audit/")
PAGE_SECONDS = 20.0
MAIL_SECONDS = 60.0
EVENTS = 20  # of each stream


@dataclass
class Report:
    """One span of a neighbour's life. Times are in seconds."""

    calls: list[Sample] = field(default_factory=list)
    pages: list[float] = field(default_factory=list)
    streams: int = 0
    sign_ins: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def recorded(self) -> int:
        """How many request records there must be."""
        return len(self.calls) + self.streams

    def call_times(self) -> list[float]:
        return [sample.seconds for sample in self.calls]


class Neighbour:
    """A person with an endpoint, sessions and a mailbox. The mailbox is what Strake prints on the terminal."""

    def __init__(self, strake: Strake, endpoint: Endpoint) -> None:
        self.strake, self.endpoint = strake, endpoint
        self.cookies: httpx.Cookies | None = None

    async def live(self, seconds: float) -> Report:
        """Do everything at least once, and for so many seconds. What is running then is finished, never cut off."""
        report = Report()
        if self.cookies is None:
            self.cookies = await self.sign_in(secrets.token_hex(4), known=True)
        end = time.monotonic() + seconds
        tasks = [self._call(report, end) for _ in range(CONNECTIONS)]
        tasks += [self._stream(report, end) for _ in range(STREAMS)]
        tasks += [self._read_pages(report, end), self._sign_in_twice(report)]
        await asyncio.gather(*tasks)
        return report

    async def _call(self, report: Report, end: float) -> None:
        client = Client(self.strake.address)
        while not report.calls or time.monotonic() < end:
            sample = await client.request(
                f"{self.endpoint.path}/v1/models", self.endpoint.token, headers={"X-Forwarded-For": "192.0.2.1"}
            )
            report.calls.append(sample)
            if sample.status != 200:
                report.failures.append(f"call {sample.status} {sample.error}")
            await asyncio.sleep(PAUSE)
        await client.close()

    async def _stream(self, report: Report, end: float) -> None:
        while not report.streams or time.monotonic() < end:
            report.streams += 1
            try:
                reader, writer = await asyncio.open_connection(*self.strake.address)
                head = f"GET {self.endpoint.path}/v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                writer.write(f"{head}Authorization: Bearer {self.endpoint.token}\r\n\r\n".encode())
                received = await asyncio.wait_for(reader.read(-1), 60)
                writer.close()
                if received.count(b"data: ") != EVENTS or not received.endswith(b"0\r\n\r\n"):
                    report.failures.append(f"stream {received[9:12].decode('latin-1')}")
            except (OSError, TimeoutError) as error:
                report.failures.append(f"stream {type(error).__name__}")

    async def _read_pages(self, report: Report, end: float) -> None:
        async with self._browser(self.cookies) as browser:
            number = 0
            while not report.pages or time.monotonic() < end:
                path = PAGES[number % len(PAGES)]
                number += 1
                began = time.monotonic()
                try:
                    response = await browser.get(path)
                except httpx.HTTPError as error:
                    report.failures.append(f"page {type(error).__name__}")
                else:
                    if response.status_code != 200:
                        report.failures.append(f"page {response.status_code}")
                report.pages.append(time.monotonic() - began)
                await asyncio.sleep(0.05)

    async def _sign_in_twice(self, report: Report) -> None:
        """Once as somebody with an account, once as somebody new."""
        for known in (True, False):
            report.sign_ins += 1
            try:
                await self.sign_in(secrets.token_hex(4), known=known)
            except (AssertionError, httpx.HTTPError) as error:
                report.failures.append(f"sign-in, {'known' if known else 'new'}: {type(error).__name__} {error}")

    async def sign_in(self, name: str, *, known: bool) -> httpx.Cookies:
        """Ask for a link, wait for the email, confirm. Raises `AssertionError` if it does not end in a session."""
        email = f"{name}@neighbour.example"
        if known:
            await asyncio.to_thread(self.strake.call, "signin_link", email=email)
        async with self._browser(None) as browser:
            form = await browser.get("/signin/")
            await self._post(browser, "/signin/", _csrf(form), email=email, next="")
            link = await self._mail_for(email)
            await browser.get(f"/signin/link/{link}/")
            page = await browser.get("/signin/confirm/")
            response = await self._post(browser, "/signin/confirm/", _csrf(page), token=link)
            assert response.headers.get("location", "").startswith("/"), f"confirm {response.status_code}"
            signed_in = await browser.get("/endpoints/")
            assert signed_in.status_code == 200, f"after confirming: {signed_in.status_code}"
            return browser.cookies

    async def _post(self, browser: httpx.AsyncClient, path: str, csrf: str, **fields: str) -> httpx.Response:
        response = await browser.post(path, data={"csrfmiddlewaretoken": csrf, **fields})
        assert response.status_code in {302, 303}, f"{path} {response.status_code}"
        return response

    async def _mail_for(self, email: str) -> str:
        end = time.monotonic() + MAIL_SECONDS
        while time.monotonic() < end:
            links = re.findall(rf"link for {email} .*?/signin/link/(link_\w+)/", self.strake.log(), flags=re.DOTALL)
            if links:
                return str(links[-1])
            await asyncio.sleep(0.1)
        raise AssertionError("no email")

    @asynccontextmanager
    async def _browser(self, cookies: httpx.Cookies | None) -> AsyncIterator[httpx.AsyncClient]:
        address = f"192.0.2.{secrets.randbelow(250) + 2}"  # each browser has an address of its own
        origin = f"http://localhost:{self.strake.port}"
        async with httpx.AsyncClient(
            base_url=origin,
            cookies=cookies,
            timeout=PAGE_SECONDS,
            headers={"X-Forwarded-For": address, "Origin": origin},
        ) as browser:
            yield browser


def _csrf(response: httpx.Response) -> str:
    found = re.search(r'csrfmiddlewaretoken" value="(\w+)"', response.text)
    assert found, f"a page without a form: {response.status_code}"
    return found[1]


def percentile(values: list[float], part: float) -> float:
    """The value in seconds that a share of the values, `part` (0 to 1), did not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


def csrf_pair(browser: httpx.Client, path: str) -> tuple[str, str]:
    """The Cookie header and the form token of a page."""
    token = _csrf(browser.get(path))
    return "; ".join(f"{name}={value}" for name, value in browser.cookies.items()), token


def kinds(failures: list[str]) -> Iterator[str]:
    """Failures with how often each happened."""
    for kind in sorted(set(failures)):
        yield f"{failures.count(kind)} of {kind}"
