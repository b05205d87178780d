"""One settings module, read from the environment. docs/configuration.md lists every variable.

The embedded default (SQLite, no Redis, no mail server, secrets made in STRAKE_HOME) holds only while STRAKE_BASE_URL is
a loopback origin. Any other origin demands explicit secrets and refuses to start without them.
"""

from __future__ import annotations

from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from credentials.egress import Holes
from strake.env import LOOPBACK_HOSTS, Environment, Secret, database_config, email_config
from strake.home import Home

env = Environment()

ROOT = Path(__file__).resolve().parent.parent

# --- Where Strake is reached ---------------------------------------------------------------------------------------

PORT = env.number("PORT", 8000, low=1, high=65535)
WEB_CONCURRENCY = env.number("WEB_CONCURRENCY", 0, low=0, high=256)  # 0: chosen by `manage.py serve`
STRAKE_BASE = env.origin("STRAKE_BASE_URL", f"http://localhost:{PORT}")
STRAKE_BASE_URL = STRAKE_BASE.geturl()
STRAKE_PROXY_DOMAIN = env.text("STRAKE_PROXY_DOMAIN").lower().strip(".")
STRAKE_EMBEDDED = STRAKE_BASE.hostname in LOOPBACK_HOSTS
HTTPS = STRAKE_BASE.scheme == "https"

# The link in a mail, cookies and redirects follow STRAKE_BASE_URL alone, never a header of the request.
ALLOWED_HOSTS = [STRAKE_BASE.hostname or ""]
if STRAKE_EMBEDDED:
    ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
USE_X_FORWARDED_HOST = False
STRAKE_TRUSTED_PROXIES = env.number("STRAKE_TRUSTED_PROXIES", 0, low=0, high=16)

# --- Secrets -------------------------------------------------------------------------------------------------------

STRAKE_HOME = Home(env.text("STRAKE_HOME", str(ROOT / ".strake")))
STRAKE_MASTER_KEYS_FILE = env.text("STRAKE_MASTER_KEYS_FILE")
STRAKE_MASTER_KEYS = Secret("" if STRAKE_MASTER_KEYS_FILE else env.text("STRAKE_MASTER_KEYS"))
_secret_key = env.secret("STRAKE_SECRET_KEY")
if STRAKE_EMBEDDED:
    STRAKE_HOME.prepare()
    SECRET_KEY = _secret_key or Secret(STRAKE_HOME.read(STRAKE_HOME.secret_key))
    if not STRAKE_MASTER_KEYS and not STRAKE_MASTER_KEYS_FILE:
        STRAKE_MASTER_KEYS_FILE = str(STRAKE_HOME.master_keys)
elif _secret_key is None or len(_secret_key) < 50:
    raise ImproperlyConfigured(
        "STRAKE_SECRET_KEY (or STRAKE_SECRET_KEY_FILE) must hold at least 50 random characters, since STRAKE_BASE_URL "
        "is not a loopback address. Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(50))'"
    )
else:
    SECRET_KEY = _secret_key

DEBUG = False

# --- Storage -------------------------------------------------------------------------------------------------------

DATABASE_URL = env.secret("DATABASE_URL") or ""
REDIS_URL = env.secret("REDIS_URL") or ""
if not STRAKE_EMBEDDED and not (DATABASE_URL and REDIS_URL):
    raise ImproperlyConfigured(
        "DATABASE_URL (PostgreSQL) and REDIS_URL are required, since STRAKE_BASE_URL is not a loopback address."
    )

if DATABASE_URL:
    DATABASES = {"default": database_config(DATABASE_URL)}
    DATABASES["default"]["CONN_MAX_AGE"] = 0
    DATABASES["default"]["OPTIONS"].setdefault("pool", {"min_size": 1, "max_size": 8, "timeout": 5})
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(STRAKE_HOME.database),
            "OPTIONS": {
                # Take the write lock when a transaction begins: one that upgrades half-way fails at once under load.
                "transaction_mode": "IMMEDIATE",
                "timeout": 10,
                # FULL: at NORMAL a power failure would undo the last commits, and with them a revocation that was told.
                # MEMORY: what a big statement sets aside would go into files in /var/tmp otherwise.
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
                # The default serialiser is pickle, which turns write access to Redis into code execution here.
                "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
                "SOCKET_CONNECT_TIMEOUT": 2,
                "SOCKET_TIMEOUT": 2,
            },
        }
    }
    SESSION_ENGINE = "accounts.session_cache"
else:
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "strake"}}
    SESSION_ENGINE = "accounts.session_database"

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
    "accounts.apps.Operators",  # django.contrib.admin
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "csp",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",  # out here, so that no answer goes without it
    "strake.static_files.StaticFiles",
    "strake.middleware.Compression",
    "strake.middleware.PageHeaders",
    "csp.middleware.CSPMiddleware",
    "credentials.api_errors.ApiErrors",
    "accounts.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "accounts.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

ROOT_URLCONF = "strake.urls"
ASGI_APPLICATION = "strake.asgi.application"

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

# --- Sign-in -------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["accounts.backends.LinkBackend"]
LOGIN_URL = "accounts:sign_in"
LOGIN_REDIRECT_URL = "credentials:endpoints"
STRAKE_SIGNUP = env.words("STRAKE_SIGNUP") or ["open"]
STRAKE_LINK_MINUTES = env.number("STRAKE_LINK_MINUTES", 15, low=1, high=15)

# Notices live in a cookie, so that showing one does not make a session for somebody who is not signed in.
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
SESSION_COOKIE_AGE = 30 * 24 * 3600
SESSION_COOKIE_NAME = "__Host-strake-session" if HTTPS else "strake-session"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_NAME = "__Host-strake-csrf" if HTTPS else "strake-csrf"
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "strake.error_pages.csrf_failure"
CSRF_TRUSTED_ORIGINS = [STRAKE_BASE_URL]

# --- Mail ----------------------------------------------------------------------------------------------------------

_email_url = env.secret("EMAIL_URL")
if _email_url:
    _email = email_config(_email_url)
elif STRAKE_EMBEDDED:
    _email = {"EMAIL_BACKEND": "accounts.mail.TerminalBackend"}
else:
    raise ImproperlyConfigured("EMAIL_URL is required, since STRAKE_BASE_URL is not a loopback address.")
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
Holes(STRAKE_ALLOWED_PRIVATE_UPSTREAMS)  # a word that makes no sense stops the process here, not its first request
STRAKE_MAX_BODY_MB = env.number("STRAKE_MAX_BODY_MB", 512, low=1, high=65536)
STRAKE_MAX_STREAMS = env.number("STRAKE_MAX_STREAMS", 2000, low=1, high=1_000_000)
STRAKE_IDLE_SECONDS = env.number("STRAKE_IDLE_SECONDS", 600, low=1, high=86400)
STRAKE_RETENTION_DAYS = env.number("STRAKE_RETENTION_DAYS", 30, low=1, high=3650)
STRAKE_DEMO_PORT = int(STRAKE_HOME.read(STRAKE_HOME.demo_port)) if STRAKE_EMBEDDED else 0
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
    "staticfiles": {"BACKEND": "strake.static_files.HashedStorage"},
}
WHITENOISE_USE_FINDERS = True

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
# Other sites learn nothing. Not "no-referrer": browsers then send `Origin: null` with our own forms, which are refused.
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = False
# TLS ends at the proxy in front, which also redirects http. Strake itself never sees plain http from outside.
SECURE_SSL_REDIRECT = False
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024  # the biggest form is a pasted key
DATA_UPLOAD_MAX_NUMBER_FIELDS = 100

SILENCED_SYSTEM_CHECKS = [
    "security.W008",  # SECURE_SSL_REDIRECT: see above
    "security.W021",  # HSTS preload binds a whole domain for ever: the operator's decision, not ours
    "django_ratelimit.E003",  # the in-process cache of the embedded default is atomic within its one process
    "django_ratelimit.W001",
]
if not HTTPS:
    # Loopback only (strake.env.origin): there is no TLS to demand here.
    SILENCED_SYSTEM_CHECKS += ["security.W004", "security.W012", "security.W016"]

# --- Logs ----------------------------------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "strake.logs.LineFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        # Django's own handlers would print a second time, with the text of exceptions.
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        # One warning per attempt to reach a database that is down; the request's own error says so once.
        "psycopg.pool": {"level": "ERROR"},
        # Their INFO and DEBUG records hold URLs and headers, and with them keys.
        **{
            name: {"level": "WARNING"}
            for name in ("httpx", "httpcore", "aiohttp", "asyncio", "urllib3", "uvicorn.access", "gunicorn.access")
        },
    },
}
DEFAULT_EXCEPTION_REPORTER = "strake.logs.BlindReporter"
DEFAULT_EXCEPTION_REPORTER_FILTER = "strake.logs.BlindReporterFilter"
