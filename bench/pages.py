"""Time and weight of pages with a lot of data: `python -m bench.pages [--records 1000000] [--others 100000]`.

Starts a Strake of its own, on SQLite or on the new database that `DATABASE_URL` names, and fills it for one person.
The time is that of the whole response, as the median of some requests. The weight is that of all files a browser loads
for its first page, compressed.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from tests.support.browser import Browser
from tests.support.running import Strake

EMAIL = "pages@example.org"
GZIP = {"Accept-Encoding": "gzip"}


def measure(strake: Strake, subdomain: str, person: str, times: int) -> None:
    origin = f"http://localhost:{strake.port}"
    with Browser(f"http://127.0.0.1:{strake.port}", origin) as browser, httpx.Client(headers=GZIP) as plain:
        browser.headers.update(GZIP)
        browser.sign_in(strake.call("signin_link", email=EMAIL, staff=True)["link"])
        for path in (
            "/endpoints/",
            "/endpoints/?sort=requests",
            "/endpoints/?state=stale",
            "/activity/",
            f"/activity/?endpoint={subdomain}&outcome=failed",
            f"/endpoints/{subdomain}/",
            f"/endpoints/{subdomain}/?period=30d&tokens=all",
            "/audit/",
            "/admin/health/",
            "/admin/people/",
            "/admin/people/?q=person77",
            f"/admin/people/{person}/",
            "/admin/endpoints/",
        ):
            taken, page = [], browser.get(path)
            for _ in range(times):
                began = time.perf_counter()
                page = browser.get(path)
                taken.append(time.perf_counter() - began)
            weight = page.num_bytes_downloaded
            for url in set(re.findall(r'(?:href|src)="(/static/[^"#]+)', page.text)):
                weight += plain.get(origin + url).num_bytes_downloaded
            shown = path.replace(subdomain, "…").replace(person, "…")
            median, slowest = statistics.median(taken) * 1000, max(taken) * 1000
            print(f"{shown:45} {median:6.0f} ms (at most {slowest:.0f})  {weight / 1000:5.1f} kB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pages")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--endpoints", type=int, default=500)
    parser.add_argument("--others", type=int, default=0, help="other people, with an endpoint each (%(default)s)")
    parser.add_argument("--times", type=int, default=15)
    given = parser.parse_args()
    database = {"DATABASE_URL": os.environ["DATABASE_URL"]} if "DATABASE_URL" in os.environ else {}
    with tempfile.TemporaryDirectory() as folder, Strake(Path(folder) / "strake", database) as strake:
        sizes = {"endpoints": given.endpoints, "records": given.records, "others": given.others}
        filled = strake.call("fill", email=EMAIL, **sizes)
        measure(strake, filled["subdomains"][0], filled["person"], given.times)


if __name__ == "__main__":
    main()
