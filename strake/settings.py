"""The only settings module, read from the environment. docs/configuration.md lists every variable.

The embedded configuration (SQLite, no Redis, secrets created in STRAKE_HOME) applies if STRAKE_BASE_URL is a loopback
origin, or if STRAKE_HOME is set and neither DATABASE_URL nor REDIS_URL is. Otherwise secrets must be explicit.
Importing this module creates nothing: strake/data_dir.py creates the files that it reads.
"""

from __future__ import annotations

from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from credentials import egress_proxy, egress_tls
from credentials.egress_allowlist import EgressAllowlist
from strake import __version__, data_dir, log_lines
from strake.data_dir import DataDir
from strake.database_url import database_config
from strake.env import LOOPBACK_HOSTS, Environment, Secret, email_config, redis_url
from strake.processes import listen, runtime

env = Environment()

ROOT = Path(__file__).resolve().parent.parent
STRAKE_VERSION = __version__  # for lower packages, which cannot import this one

# --- This process ----------------------------------------------------------------------------------------------------

STRAKE_PROCESS = env.choice("STRAKE_PROCESS", "", {"", "proxy", "web"})  # which half this is, or "" for a command

# --- Where Strake is reached ---------------------------------------------------------------------------------------

PORT = env.number("PORT", 8000, low=1, high=65535)
WEB_CONCURRENCY = env.number("WEB_CONCURRENCY", 0, low=0, high=256)  # 0: chosen in proxy_server.py
STRAKE_WEB_WORKERS = env.number("STRAKE_WEB_WORKERS", 1, low=1, high=64)
STRAKE_BIND = listen.parse(env.text("STRAKE_BIND"), port=PORT)
_metrics_bind = env.text("STRAKE_METRICS_BIND")
STRAKE_METRICS_BIND = listen.parse(_metrics_bind, port=PORT, name="STRAKE_METRICS_BIND") if _metrics_bind else []
STRAKE_BASE = env.origin("STRAKE_BASE_URL", f"http://localhost:{PORT}")
STRAKE_BASE_URL = STRAKE_BASE.geturl()
STRAKE_PROXY_DOMAIN = env.text("STRAKE_PROXY_DOMAIN").lower().strip(".")
# One person on one machine; one machine for others (data and secrets are in STRAKE_HOME); or many machines.
STRAKE_LOOPBACK = STRAKE_BASE.hostname in LOOPBACK_HOSTS
STRAKE_EMBEDDED = data_dir.is_embedded(env)
HTTPS = STRAKE_BASE.scheme == "https"

# Links in emails, cookies and redirects use STRAKE_BASE_URL and never a header of the request.
ALLOWED_HOSTS = [STRAKE_BASE.hostname or ""]
if STRAKE_LOOPBACK:
    ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
USE_X_FORWARDED_HOST = False
STRAKE_TRUSTED_PROXIES = env.number("STRAKE_TRUSTED_PROXIES", 0, low=0, high=16)
STRAKE_DRAIN_SECONDS = env.number("STRAKE_DRAIN_SECONDS", 0 if STRAKE_EMBEDDED else 5, low=0, high=300)

# --- Secrets -------------------------------------------------------------------------------------------------------

# Each half reads its own secrets only: the proxy half the master keys, the web half the secret key and the mail server.
STRAKE_HOME = DataDir.configured(env)
STRAKE_MASTER_KEYS_FILE = ""
STRAKE_MASTER_KEYS_COMMAND = ""
STRAKE_MASTER_KEYS = Secret("")
STRAKE_AUDIT_KEY_FILE = ""
SECRET_KEY = Secret("")  # Django refuses to use an empty key
_key_sources = env.present("STRAKE_MASTER_KEYS_FILE", "STRAKE_MASTER_KEYS_COMMAND", "STRAKE_MASTER_KEYS")
if STRAKE_PROCESS == "web" and _key_sources:
    raise ImproperlyConfigured(
        f"The web half must not know master keys. Remove {' and '.join(_key_sources)} from its environment."
    )
if len(_key_sources) > 1:
    raise ImproperlyConfigured(f"Set one of {', '.join(_key_sources)}, and remove the others.")
if STRAKE_PROCESS != "web":
    STRAKE_MASTER_KEYS_FILE = env.text("STRAKE_MASTER_KEYS_FILE")
    STRAKE_MASTER_KEYS_COMMAND = env.text("STRAKE_MASTER_KEYS_COMMAND")
    STRAKE_MASTER_KEYS = Secret(env.text("STRAKE_MASTER_KEYS"))
    if STRAKE_EMBEDDED and not _key_sources:
        STRAKE_MASTER_KEYS_FILE = str(STRAKE_HOME.master_keys)
    STRAKE_AUDIT_KEY_FILE = env.text("STRAKE_AUDIT_KEY_FILE", str(STRAKE_HOME.audit_key) if STRAKE_EMBEDDED else "")
elif env.text("STRAKE_AUDIT_KEY_FILE"):
    raise ImproperlyConfigured(
        "The web half must not sign checkpoints. Remove STRAKE_AUDIT_KEY_FILE from its environment."
    )
if STRAKE_PROCESS != "proxy":
    SECRET_KEY = env.secret("STRAKE_SECRET_KEY") or Secret("")
    if STRAKE_EMBEDDED:
        SECRET_KEY = SECRET_KEY or Secret(STRAKE_HOME.read(STRAKE_HOME.secret_key))
    elif len(SECRET_KEY) < 50 and (SECRET_KEY or STRAKE_PROCESS == "web"):
        raise ImproperlyConfigured(
            "STRAKE_SECRET_KEY (or STRAKE_SECRET_KEY_FILE) must hold at least 50 random characters. "
            f"{STRAKE_HOME.secret_key_advice}"
        )

# --- Between the halves ----------------------------------------------------------------------------------------------

STRAKE_WEB_USER = env.text("STRAKE_WEB_USER")
STRAKE_RUNTIME = runtime.located(
    Path(env.text("STRAKE_RUNTIME", str(STRAKE_HOME.run) if STRAKE_EMBEDDED else "/run/strake")).absolute(),
    STRAKE_HOME.path,
    create=False,
)
STRAKE_WEB_SOCKET = STRAKE_RUNTIME.web_socket
STRAKE_PROXY_SOCKET = STRAKE_RUNTIME.proxy_socket
STRAKE_WRAP_SOCKET = STRAKE_RUNTIME.wrap_socket
# The web half holds no master key, so it asks the proxy half to wrap, and has no keyring to check.
if STRAKE_PROCESS == "web":
    STRAKE_KEY_WRAPPER = "credentials.vault.socket_wrapper.SocketKeyWrapper"
    STRAKE_KEYRING_CHECKS = ""
else:
    STRAKE_KEY_WRAPPER = "credentials.vault.local_wrapper.LocalKeyWrapper"
    STRAKE_KEYRING_CHECKS = "credentials.checks"

DEBUG = False

# --- Storage -------------------------------------------------------------------------------------------------------

DATABASE_URL = env.secret("DATABASE_URL") or ""
REDIS_URL = env.secret("REDIS_URL") or ""
if REDIS_URL:
    redis_url(REDIS_URL)
STRAKE_DATABASE_CONNECTIONS = env.number("STRAKE_DATABASE_CONNECTIONS", 8, low=2, high=100)
STRAKE_PLAINTEXT_HOSTS = env.words("STRAKE_PLAINTEXT_HOSTS")  # for strake/deploy_checks.py, as the next one
STRAKE_CHECK_SERVICES = env.number("STRAKE_CHECK_SERVICES", 1, low=0, high=1)
if not STRAKE_EMBEDDED and not (DATABASE_URL and REDIS_URL):
    raise ImproperlyConfigured(
        "STRAKE_BASE_URL is not a loopback address. For one machine, set STRAKE_HOME to the data folder, and neither "
        "DATABASE_URL nor REDIS_URL. For several, set both (PostgreSQL and Redis)."
    )

if DATABASE_URL:
    DATABASES = {"default": database_config(DATABASE_URL)}
    DATABASES["default"]["CONN_MAX_AGE"] = 0
    # A connection from the pool may have ended with a restart of the server. The request log retries anyway, and would
    # wait for ever for a check that gets no answer.
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = STRAKE_PROCESS == "web"
    # After an outage, connect again for the next query, not in growing intervals.
    DATABASES["default"]["OPTIONS"]["pool"] = {
        "min_size": 1,
        "max_size": STRAKE_DATABASE_CONNECTIONS,
        "timeout": 5,
        "reconnect_timeout": 5,
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            # Only commands that create nothing get here with a new folder, or with one of an older version before its
            # files have been moved. They see an empty database.
            "NAME": ":memory:" if STRAKE_HOME.is_unprepared else str(STRAKE_HOME.database),
            "OPTIONS": {
                # Take the write lock when a transaction begins: under load, upgrading a read lock fails at once.
                "transaction_mode": "IMMEDIATE",
                "timeout": 10,
                # synchronous=FULL: with NORMAL, a power failure could undo a revocation that had been confirmed.
                # temp_store=MEMORY: otherwise large statements write temporary files to /var/tmp.
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON; "
                "PRAGMA temp_store=MEMORY;",
            },
            "TEST": {"NAME": str(STRAKE_HOME.path / "test.sqlite3")},
        }
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if REDIS_URL:
    CACHES = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": REDIS_URL,
            "KEY_PREFIX": "strake",
            "OPTIONS": {
                # The default serializer is pickle, which turns write access to Redis into code execution.
                "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
                "SOCKET_CONNECT_TIMEOUT": 2,
                "SOCKET_TIMEOUT": 2,
            },
        }
    }
    SESSION_ENGINE = "accounts.sessions.cache"
else:
    # Not in memory: rate limits must survive a restart.
    CACHES = {"default": {"BACKEND": "accounts.database_cache.DatabaseCache"}}
    SESSION_ENGINE = "accounts.sessions.database"

# --- Applications --------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "strake",
    "proxy",
    "credentials",
    "accounts",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "csp",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",  # outermost, so that every response carries it
    "strake.metrics.web.CountPages",
    "strake.pages.static_files.StaticFiles",
    "strake.pages.middleware.Compression",
    "strake.pages.middleware.PageHeaders",
    "strake.pages.middleware.ContentSecurityPolicy",
    "strake.pages.middleware.LocalTime",
    "credentials.api.errors.ApiErrors",
    "accounts.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "accounts.sessions.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

ROOT_URLCONF = "strake.urls"
WSGI_APPLICATION = "strake.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [ROOT / "templates"],
        "OPTIONS": {
            "loaders": [
                (
                    "django.template.loaders.cached.Loader",
                    ["django.template.loaders.filesystem.Loader", "django.template.loaders.app_directories.Loader"],
                )
            ],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

# --- Limits of one person --------------------------------------------------------------------------------------------

STRAKE_MAX_ENDPOINTS = env.number("STRAKE_MAX_ENDPOINTS", 100, low=1, high=1_000_000)
STRAKE_MAX_TOKENS = env.number("STRAKE_MAX_TOKENS", 1000, low=1, high=1_000_000)
STRAKE_MAX_ACCESS_TOKENS = env.number("STRAKE_MAX_ACCESS_TOKENS", 50, low=1, high=1_000_000)
STRAKE_CHECKS_PER_MINUTE = env.number("STRAKE_CHECKS_PER_MINUTE", 20, low=1, high=1_000_000)
STRAKE_WEB_THREADS = 8  # of one worker of the web half; half of them may wait for providers

# --- Sign-in -------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["accounts.backends.LinkBackend"]
LOGIN_URL = "accounts:sign_in"
LOGIN_REDIRECT_URL = "credentials:endpoints"
_chosen = env.words("STRAKE_SIGNUP")
STRAKE_SIGNUP, STRAKE_SIGNUP_IS_CHOSEN = _chosen or ["open"], bool(_chosen)
STRAKE_LINK_MINUTES = env.number("STRAKE_LINK_MINUTES", 15, low=1, high=15)

# On https, browsers accept `__Host-` cookies from this very host only, not from another one in its domain. On loopback
# there is no https. Cookies do not belong to a port, so the name has it: two Strakes do not overwrite each other's.
STRAKE_COOKIE = "__Host-strake-{}" if HTTPS else "strake-{}"
if STRAKE_BASE.port or not HTTPS:
    STRAKE_COOKIE += f"-{STRAKE_BASE.port or 80}"
# Messages live in a cookie, so that showing one does not create a session for somebody who is not signed in.
MESSAGE_STORAGE = "accounts.sign_in.cookies.MessageStorage"
SESSION_COOKIE_AGE = 30 * 24 * 3600
SESSION_COOKIE_NAME = STRAKE_COOKIE.format("session")
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_NAME = STRAKE_COOKIE.format("csrf")
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "strake.pages.error_pages.csrf_failure"
CSRF_TRUSTED_ORIGINS = [STRAKE_BASE_URL]

# --- Email ---------------------------------------------------------------------------------------------------------

_email_url = env.secret("EMAIL_URL") if STRAKE_PROCESS != "proxy" else None
if _email_url:
    _email = email_config(_email_url)
elif STRAKE_LOOPBACK or STRAKE_PROCESS != "web":
    _email = {"EMAIL_BACKEND": "accounts.sign_in.mail.TerminalBackend"}
elif STRAKE_EMBEDDED:
    _email = {"EMAIL_BACKEND": "django.core.mail.backends.dummy.EmailBackend"}  # operators hand out links
else:
    raise ImproperlyConfigured("EMAIL_URL is required with DATABASE_URL, unless STRAKE_BASE_URL is a loopback address.")
EMAIL_BACKEND = _email["EMAIL_BACKEND"]
EMAIL_HOST = _email.get("EMAIL_HOST", "localhost")
EMAIL_PORT = _email.get("EMAIL_PORT", 25)
EMAIL_HOST_USER = _email.get("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = _email.get("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS = _email.get("EMAIL_USE_TLS", False)
EMAIL_USE_SSL = _email.get("EMAIL_USE_SSL", False)
EMAIL_TIMEOUT = _email.get("EMAIL_TIMEOUT")
STRAKE_MAIL_FROM = env.text("STRAKE_MAIL_FROM", f"Strake <strake@{STRAKE_BASE.hostname}>")
DEFAULT_FROM_EMAIL = STRAKE_MAIL_FROM

# --- The proxy -----------------------------------------------------------------------------------------------------

STRAKE_ALLOWED_PRIVATE_UPSTREAMS = env.words("STRAKE_ALLOWED_PRIVATE_UPSTREAMS")
EgressAllowlist(STRAKE_ALLOWED_PRIVATE_UPSTREAMS)  # an invalid entry stops the process here, not at its first request
_egress_proxy_url = env.secret("STRAKE_EGRESS_PROXY")
_egress_proxy_resolves = env.number("STRAKE_EGRESS_PROXY_RESOLVES", 0, low=0, high=1) == 1
if _egress_proxy_resolves and not _egress_proxy_url:
    raise ImproperlyConfigured("STRAKE_EGRESS_PROXY_RESOLVES needs STRAKE_EGRESS_PROXY, the address of the proxy.")
STRAKE_EGRESS_NO_PROXY = env.words("STRAKE_EGRESS_NO_PROXY")
egress_proxy.parse_exceptions(STRAKE_EGRESS_NO_PROXY)  # also without a proxy
STRAKE_EGRESS_PROXY = (
    egress_proxy.parse(_egress_proxy_url, resolves=_egress_proxy_resolves, exceptions=STRAKE_EGRESS_NO_PROXY)
    if _egress_proxy_url
    else None
)
STRAKE_CA_FILE = env.text("STRAKE_CA_FILE")
STRAKE_CA_CERTIFICATES = egress_tls.read_certificates(STRAKE_CA_FILE) if STRAKE_CA_FILE else ""
STRAKE_MAX_BODY_MB = env.number("STRAKE_MAX_BODY_MB", 512, low=1, high=65536)
STRAKE_MAX_STREAMS = env.number("STRAKE_MAX_STREAMS", 2000, low=1, high=1_000_000)
STRAKE_MAX_STREAMS_PER_PERSON = env.number(
    "STRAKE_MAX_STREAMS_PER_PERSON", 3 * STRAKE_MAX_STREAMS, low=1, high=3_000_000
)
STRAKE_STORE_GRACE = env.number("STRAKE_STORE_GRACE", 60, low=1, high=86400)
STRAKE_IDLE_SECONDS = env.number("STRAKE_IDLE_SECONDS", 600, low=1, high=86400)
STRAKE_RETENTION_DAYS = env.number("STRAKE_RETENTION_DAYS", 30, low=1, high=3650)
# The token servers of clouds get secrets, so neither people nor the environment can name another.
STRAKE_TOKEN_URLS = {
    "azure_entra": "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
    "google_service_account": "https://oauth2.googleapis.com/token",
}
STRAKE_DEMO_PORT = int(STRAKE_HOME.read(STRAKE_HOME.demo_port) or 0) if STRAKE_LOOPBACK else 0
if STRAKE_DEMO_PORT:
    STRAKE_ALLOWED_PRIVATE_UPSTREAMS.append(f"127.0.0.1:{STRAKE_DEMO_PORT}")

# --- Pages ---------------------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATICFILES_DIRS: list[Path] = []
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "strake.pages.static_files.HashedStorage"},
}
WHITENOISE_USE_FINDERS = True

# Endpoints may be on the origin of the pages, below /p/, so 'self' would include what providers send. Nothing below
# /static/ redirects, since a browser ignores the path of a source after a redirect. A source cannot be an IPv6 address.
_static = ["'self'" if "[" in STRAKE_BASE.netloc else STRAKE_BASE_URL + STATIC_URL]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": _static,
        "style-src": _static,
        "img-src": _static,
        "font-src": _static,
        "connect-src": ["'self'"],
        "frame-src": ["'none'"],
        "worker-src": ["'none'"],  # it would default to script-src
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
# Other sites receive no referrer. With "no-referrer", browsers would send `Origin: null` with Strake's forms, and
# Django's CSRF check would refuse them.
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
# The reverse proxy terminates TLS and redirects plain HTTP.
SECURE_SSL_REDIRECT = False
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024  # the largest form holds a pasted key
DATA_UPLOAD_MAX_NUMBER_FIELDS = 100

SILENCED_SYSTEM_CHECKS = [
    "security.W008",  # SECURE_SSL_REDIRECT: see above
    "security.W021",  # HSTS preload binds a whole domain permanently: the operator decides
    "django_ratelimit.W001",  # it knows atomic caches by name, and accounts.database_cache is not among them
]
if STRAKE_LOOPBACK and STRAKE_HOME.is_new and str(STRAKE_HOME.master_keys) == STRAKE_MASTER_KEYS_FILE:
    # The keyring does not exist yet. The first command that needs it creates it.
    SILENCED_SYSTEM_CHECKS += ["credentials.E001"]
if not SECRET_KEY:
    # The proxy half and commands have none. The web half refuses a key that is missing or short: see above.
    SILENCED_SYSTEM_CHECKS += ["security.W009"]
if not HTTPS:
    # Only a loopback origin may use plain HTTP (`Environment.origin`), so TLS is not required.
    SILENCED_SYSTEM_CHECKS += ["security.W004", "security.W012", "security.W016"]

# --- Logs ----------------------------------------------------------------------------------------------------------

STRAKE_LOG = env.choice("STRAKE_LOG", "text", {"text", "json"})
LOGGING = log_lines.configuration(STRAKE_LOG)
DEFAULT_EXCEPTION_REPORTER = "strake.logs.BlindReporter"
DEFAULT_EXCEPTION_REPORTER_FILTER = "strake.logs.BlindReporterFilter"
