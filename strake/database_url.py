"""The one reader of DATABASE_URL, for both PostgreSQL drivers.

Django connects with psycopg, and the route look-up with asyncpg. The two read URLs differently: they have different
defaults for a missing host, and each ignores options of the other. So only what is read here reaches a driver, and an
option is accepted only if both drivers follow it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from django.core.exceptions import ImproperlyConfigured

from accounts import postgresql_files
from strake.env import Secret

EXAMPLE = "postgres://user:password@host:5432/strake"
DEFAULT_PORT = "5432"

_CHOICES = {
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
    "target_session_attrs": {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"},
}
FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl"}
# If the server vanishes without a word (power, network, failover), the kernel would wait for it for 15 minutes. With
# these a connection fails within 15 seconds, used or idle. asyncpg has a timeout for each statement instead.
DEADLINES = {
    "connect_timeout": "2",
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "12000",
}
OPTIONS = frozenset({*_CHOICES, *FILES, "sslpassword", "connect_timeout", "application_name", "options"})


def database_config(url: str) -> dict[str, Any]:
    """Return Django's settings for `postgres://user:password@host:port/name?option=value`.

    Several hosts are separated by commas: `host1:5432,host2:5433`. `?host=` and `?port=` may take their place, for the
    folder of a Unix socket. The result always names a host and a port; libpq's own format for several is used.

    Raises `ImproperlyConfigured`. A mistyped URL can hold a password anywhere, so no message repeats a value.
    """
    userinfo, hosts, name, query = _split(url)
    user, _, password = userinfo.partition(":")
    options = _options(query)
    host, port = _hosts(hosts, options.pop("host", ""), options.pop("port", ""))
    _check_options(options)
    if not name:
        raise ImproperlyConfigured("DATABASE_URL names no database: add /strake after the host.")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(name),
        "USER": unquote(user),
        "PASSWORD": Secret(unquote(password)),
        "HOST": host,
        "PORT": port,
        "OPTIONS": {**DEADLINES, **postgresql_files.libpq_options(), **options},
    }


def _split(url: str) -> tuple[str, str, str, str]:
    """Return user information, hosts, name and query, all still percent-encoded."""
    not_encoded = ImproperlyConfigured(
        f"DATABASE_URL should look like {EXAMPLE}. In the user name and the password, percent-encode special "
        "characters: # is %23, / is %2F, ? is %3F, @ is %40, [ is %5B, % is %25."
    )
    # `urlsplit` of newer Pythons refuses a list of hosts with an IPv6 address in it.
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in {"postgres", "postgresql"}:
        raise ImproperlyConfigured(f"DATABASE_URL should look like {EXAMPLE}")
    before, _, query = rest.partition("?")
    netloc, _, name = before.partition("/")
    userinfo, _, hosts = netloc.rpartition("@")
    # The first of these characters in a password ends the host part, so the @ comes after it.
    if "#" in url or "@" in name + query or "/" in name or "[" in userinfo or "]" in userinfo:
        raise not_encoded
    return userinfo, hosts, name, query


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    # As libpq does: unlike in a form, + is not a space.
    for option in filter(None, query.split("&")):
        name, _, value = (unquote(part) for part in option.partition("="))
        if name not in OPTIONS | {"host", "port"}:
            raise ImproperlyConfigured(
                f"DATABASE_URL has the option {name!r}, which Strake does not support. Remove it. Supported options: "
                f"{', '.join(sorted(OPTIONS))}."
            )
        if not value or name in options:
            raise ImproperlyConfigured(f"DATABASE_URL must give the option {name!r} one value.")
        options[name] = value
    return options


def _hosts(netloc: str, host: str, port: str) -> tuple[str, str]:
    """Return hosts and ports, each comma-separated and as many ports as hosts."""
    if bool(netloc) == bool(host):
        raise ImproperlyConfigured(
            "DATABASE_URL must name its host once: after @, or as ?host=, for example "
            "postgres://strake@/strake?host=/run/postgresql"
        )
    hosts, ports = [], []
    for one in (netloc or host).split(","):
        match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::(\d+))?", one) if netloc else None
        hosts.append(unquote(match[1] or match[2]) if match else one if host else "")
        ports.append(match[3] or DEFAULT_PORT if match else DEFAULT_PORT)
    if port:
        given = port.split(",")
        ports = given * len(hosts) if len(given) == 1 else given
    valid_ports = all(one.isascii() and one.isdigit() and len(one) < 6 and 0 < int(one) <= 65535 for one in ports)
    if not all(hosts) or not valid_ports or len(ports) != len(hosts):
        raise ImproperlyConfigured(
            f"DATABASE_URL has a host or a port that cannot be read; it should look like {EXAMPLE}. Special characters "
            "in the password must be percent-encoded."
        )
    return ",".join(hosts), ",".join(ports)


def _check_options(options: dict[str, str]) -> None:
    for name, choices in _CHOICES.items():
        if options.get(name) not in {None, *choices}:
            raise ImproperlyConfigured(f"DATABASE_URL: {name} must be one of {', '.join(sorted(choices))}.")
    for name in FILES & options.keys():
        try:
            Path(options[name]).read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a path"
            raise ImproperlyConfigured(f"DATABASE_URL: {name} names a file that cannot be read: {reason}.") from None
    timeout = options.get("connect_timeout", "2")
    if not (timeout.isascii() and timeout.isdigit() and len(timeout) < 4 and 0 < int(timeout) <= 600):
        raise ImproperlyConfigured("DATABASE_URL: connect_timeout must be a whole number of seconds from 1 to 600.")
