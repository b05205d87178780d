"""Redis, the mail server, names, and the clocks of the machines."""

from __future__ import annotations

import smtplib
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import parseaddr

import redis
from django.conf import settings
from django.core import mail

from accounts import retention
from accounts.database_errors import reason
from credentials import providers
from strake.health.findings import BAD, GOOD, SKIPPED, WARN, Finding

TIMEOUT_SECONDS = 5.0
# An access token of a cloud, a rate limit's window and a record's time depend on the clock.
WARN_SKEW_SECONDS, MAX_SKEW_SECONDS = 2.0, 30.0


def look_at_redis() -> Iterator[Finding]:
    if not settings.REDIS_URL:
        return
    try:
        # The URL can hold a password, and so can the text of the error about a senseless one.
        client = redis.Redis.from_url(str(settings.REDIS_URL), socket_timeout=2, socket_connect_timeout=2)
    except ValueError:
        yield Finding(
            "Redis", BAD, "REDIS_URL is not a URL of Redis. It should look like rediss://:password@host:6379/0"
        )
        return
    try:
        found = {**client.info("server"), **client.info("memory"), **client.info("persistence")}
        seconds, microseconds = client.time()
    except (redis.RedisError, OSError) as error:
        yield Finding("Redis", BAD, f"{reason(error)}. Is it running, and is REDIS_URL right?")
        return
    finally:
        client.close()
    problems = []
    if found.get("maxmemory_policy") not in {None, "noeviction"}:
        problems.append(f"set maxmemory-policy to noeviction, now {found['maxmemory_policy']}, or sessions get lost")
    if not found.get("aof_enabled"):
        problems.append("set appendonly to yes, or a restart signs everybody out")
    words = f"Redis {found.get('redis_version')}, noeviction, appendonly"
    if problems:
        words = f"Redis {found.get('redis_version')}: {' and '.join(problems)}"
    yield Finding("Redis", WARN if problems else GOOD, words)
    yield _clock("Redis", seconds + microseconds / 1e6)


def look_at_mail() -> Iterator[Finding]:
    """Connect as for an email, and ask if the sender may send. No email is sent (RFC 5321 §4.1.1.5, RSET)."""
    if not settings.EMAIL_BACKEND.endswith("smtp.EmailBackend"):
        if settings.STRAKE_EMBEDDED or settings.STRAKE_LOOPBACK:
            yield Finding("Mail", GOOD, "none: EMAIL_URL is not set")
        else:
            words = "not asked: EMAIL_URL is not set here. Run this with the configuration of the web half too."
            yield Finding("Mail", SKIPPED, words)
        return
    server = f"{settings.EMAIL_HOST}, port {settings.EMAIL_PORT}"
    _, sender = parseaddr(settings.STRAKE_MAIL_FROM)
    backend = mail.get_connection(timeout=TIMEOUT_SECONDS)
    try:
        backend.open()
        smtp = backend.connection
        code, text = smtp.mail(sender)
        smtp.rset()
    except smtplib.SMTPResponseException as error:
        yield Finding("Mail", BAD, f"{server}: {error.smtp_code} {_text(error.smtp_error)}")
        return
    except (OSError, smtplib.SMTPException) as error:
        yield Finding("Mail", BAD, f"{server}: {reason(error)}. Is EMAIL_URL right?")
        return
    finally:
        backend.close()
    if code >= 400:
        words = f"{server} does not accept the sender {sender} (STRAKE_MAIL_FROM): {code} {_text(text)}"
        yield Finding("Mail", BAD, words)
    else:
        encrypted = "TLS" if settings.EMAIL_USE_TLS or settings.EMAIL_USE_SSL else "without TLS"
        yield Finding("Mail", GOOD, f"{server}, {encrypted}, accepts {sender}")


def look_at_names() -> Iterator[Finding]:
    """Look up a provider, and the public name of this installation."""
    proxy = settings.STRAKE_EGRESS_PROXY
    names = [settings.STRAKE_BASE.hostname or ""]
    if proxy is None or not proxy.resolves:
        names.insert(0, next(iter(providers.get("openai").destination_urls)).split("/")[2])
    for name in names:
        problem, seconds = _resolve(name)
        if problem:
            yield Finding("Names", BAD if name is names[-1] and len(names) == 1 else WARN, f"{name}: {problem}")
        else:
            yield Finding("Names", WARN if seconds > 1 else GOOD, f"{name} found in {seconds * 1000:.0f} ms")


def look_at_clocks() -> Iterator[Finding]:
    """Compare this host's clock with the database's."""
    yield _clock("the database", retention.database_now().timestamp())


def _clock(whose: str, there: float) -> Finding:
    skew = time.time() - there
    words = f"this host is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} {whose}"
    if abs(skew) < WARN_SKEW_SECONDS:
        return Finding("Clock", GOOD, words)
    state = BAD if abs(skew) > MAX_SKEW_SECONDS else WARN
    return Finding("Clock", state, f"{words}. Synchronise both, for example with chrony.")


def _resolve(name: str) -> tuple[str, float]:
    """Return why a name was not found, or "", and the seconds it took. The system's resolver has no timeout."""
    found: list[str] = []

    def ask() -> None:
        try:
            socket.getaddrinfo(name, 443)
            found.append("")
        except OSError as error:
            found.append(error.strerror or "not found")

    start = time.monotonic()
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    return (found or ["the name servers do not answer"])[0], time.monotonic() - start


def _text(text: bytes | str) -> str:
    return " ".join((text.decode("utf-8", "replace") if isinstance(text, bytes) else text).split())[:300]
