"""System checks of `manage.py check --deploy`: what would carry links, sessions, rows or tokens in clear.

Loopback, Unix sockets and the hosts in STRAKE_PLAINTEXT_HOSTS are fine without TLS. The last two are what `manage.py
doctor` finds when it asks every service, which STRAKE_CHECK_SERVICES=0 prevents.

strake.E002   EMAIL_URL would send sign-in links to another machine without TLS
strake.E003   REDIS_URL would send sessions to another machine without TLS
strake.E004   DATABASE_URL may send rows to another machine without TLS
strake.W002   DATABASE_URL or REDIS_URL uses TLS without checking the certificate of the server
strake.W003   STRAKE_TRUSTED_PROXIES is 0, so all clients may seem to have the address of the reverse proxy
strake.W004   STRAKE_BIND accepts connections from other machines, in clear
strake.W005   STRAKE_EGRESS_PROXY_RESOLVES leaves it to the company's proxy which addresses are allowed
strake.E010   a service that Strake depends on does not work
strake.W010   a service that Strake depends on should be looked at
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connection

from strake.env import LOOPBACK_HOSTS
from strake.processes.listen import TCPAddress

_ACCEPT = "If the network between them is private, accept that with STRAKE_PLAINTEXT_HOSTS=%s"
_UNENCRYPTED = {"", "disable", "allow", "prefer"}  # libpq's default is prefer, which falls back to plain text


@register(Tags.security, deploy=True)
def check_email(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    host = settings.EMAIL_HOST
    encrypted = settings.EMAIL_USE_TLS or settings.EMAIL_USE_SSL
    if not settings.EMAIL_BACKEND.endswith("smtp.EmailBackend") or encrypted or _may_be_in_clear(host):
        return []
    return [
        Error(
            f"Sign-in links and the mail password go to {host} without TLS.",
            hint=f"Write EMAIL_URL as smtp+tls://… (STARTTLS) or smtps://…. {_ACCEPT % host}",
            id="strake.E002",
        )
    ]


@register(Tags.security, deploy=True)
def check_redis(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    url = urlsplit(settings.REDIS_URL)
    host = url.hostname or ""
    if url.scheme == "redis" and not _may_be_in_clear(host):
        return [
            Error(
                f"Sessions and the Redis password go to {host} without TLS.",
                hint=f"Write REDIS_URL as rediss://…. {_ACCEPT % host}",
                id="strake.E003",
            )
        ]
    if url.scheme == "rediss" and parse_qs(url.query).get("ssl_cert_reqs", ["required"]) != ["required"]:
        return [_unverified("REDIS_URL", host, "Remove ssl_cert_reqs from REDIS_URL.")]
    return []


@register(Tags.security, deploy=True)
def check_database(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    database = connection.settings_dict
    if not database["ENGINE"].endswith("postgresql"):
        return []
    hosts = [host for host in database["HOST"].split(",") if not _may_be_in_clear(host)]
    mode = database["OPTIONS"].get("sslmode", "")
    if hosts and mode in _UNENCRYPTED:
        names = ",".join(hosts)
        return [
            Error(
                f"Rows and the database password may go to {names} without TLS.",
                hint=f"Add ?sslmode=verify-full&sslrootcert=/path/ca.pem to DATABASE_URL. {_ACCEPT % names}",
                id="strake.E004",
            )
        ]
    if hosts and mode == "require":
        advice = "Write sslmode=verify-full and sslrootcert=/path/ca.pem in DATABASE_URL."
        return [_unverified("DATABASE_URL", ",".join(hosts), advice)]
    return []


@register(Tags.security, deploy=True)
def check_reverse_proxy(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """Only the proxy half uses these settings, and commands, which may run with the settings of both halves."""
    if settings.STRAKE_LOOPBACK or settings.STRAKE_PROCESS == "web":
        return []
    messages: list[CheckMessage] = []
    if settings.STRAKE_TRUSTED_PROXIES == 0:
        messages.append(
            Warning(
                "STRAKE_TRUSTED_PROXIES is 0. Limits and allowed networks see the reverse proxy only.",
                hint="Set it to the number of your reverse proxies in front of Strake, usually 1.",
                id="strake.W003",
            )
        )
    public = [
        str(address)
        for address in settings.STRAKE_BIND
        if isinstance(address, TCPAddress) and not _may_be_in_clear(address.host)
    ]
    if public:
        messages.append(
            Warning(
                f"Strake listens on {', '.join(public)}, where tokens and prompts arrive in clear.",
                hint="Let the reverse proxy run on the same machine, or reach Strake over an encrypted network only.",
                id="strake.W004",
            )
        )
    return messages


@register(Tags.security, deploy=True)
def check_egress_proxy(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    if settings.STRAKE_EGRESS_PROXY is None or not settings.STRAKE_EGRESS_PROXY.resolves:
        return []
    return [
        Warning(
            "STRAKE_EGRESS_PROXY_RESOLVES=1: the proxy looks public names up, so Strake cannot check their addresses.",
            hint="Let the proxy refuse private addresses, those of its own machine and metadata services among them. "
            "Remove the variable if the proxy also allows addresses.",
            id="strake.W005",
        )
    ]


@register(Tags.security, deploy=True)
def check_services(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    if not settings.STRAKE_CHECK_SERVICES:
        return []
    from strake.doctor import examination  # it loads libraries that no other check needs
    from strake.health.findings import BAD, WARN

    return [
        Error(f"{one.name}: {one.words}", hint="manage.py doctor", id="strake.E010")
        if one.state == BAD
        else Warning(f"{one.name}: {one.words}", hint="manage.py doctor", id="strake.W010")
        for one in examination.examine()
        if one.state in {BAD, WARN}
    ]


def _unverified(variable: str, host: str, hint: str) -> CheckMessage:
    return Warning(
        f"{variable} uses TLS without checking that the server is {host}: somebody in between can read along.",
        hint=hint,
        id="strake.W002",
    )


def _may_be_in_clear(host: str) -> bool:
    """True for loopback, a Unix socket, and a host that the operator has accepted."""
    if not host or host.startswith(("/", "@")) or host in LOOPBACK_HOSTS or host in settings.STRAKE_PLAINTEXT_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
