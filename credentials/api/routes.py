"""The management API, /api/v1. Its operations call the same services as the pages do.

Each noun has a router in a module of its own, and one line at the end of this module adds it:

    api.add_router("/endpoints/{subdomain}/tokens", tokens.router)

Parameters in the prefix are parameters of every operation of the router. Operations that change something name the
scope that they need, `auth=TOKENS` or `auth=ENDPOINTS` of `credentials.api.access`. The others need `read`. A router
whose callers have no access token is a `Router(auth=None)`. All methods of one path belong into one router, since
Django takes the first pattern that fits a path.

Errors are exceptions of the services, which `credentials.api.errors` maps. `credentials.api.document.errors` lists the
statuses that an operation may answer. A router of a higher layer, such as `strake.api`, is added in strake/urls.py.
"""

from __future__ import annotations

from credentials.api import account, audit, device, endpoints, notices, revocation, tokens
from credentials.api import errors as api_errors
from credentials.api.access import READ
from credentials.api.document import ManagementAPI

api = ManagementAPI(
    title="Strake management API",
    version="1",
    description="Endpoints and their tokens. Every call acts for the owner of the access token.",
    auth=READ,
    docs_url=None,
    urls_namespace="api",
)
api_errors.install(api)

api.add_router("", account.router)
api.add_router("", endpoints.router)
api.add_router("/endpoints/{subdomain}/tokens", tokens.router)
api.add_router("/audit", audit.router)
api.add_router("/notices", notices.router)
api.add_router("/tokens", revocation.router)
api.add_router("/device", device.router)
