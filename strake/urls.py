"""Every route. Proxy traffic does not get here: see strake/asgi.py.

The server imports this module at the first request for the API, whose libraries take 20 MB: see strake/wsgi.py.
"""

from __future__ import annotations

from django.urls import path

from credentials.api.routes import api as api
from strake import page_urls
from strake.api import router as requests

api.add_router("/endpoints/{subdomain}", requests)  # the routers of lower layers are in credentials.api.routes

urlpatterns = [*page_urls.urlpatterns, path("api/v1/", api.urls)]

handler400 = page_urls.handler400
handler403 = page_urls.handler403
handler404 = page_urls.handler404
handler500 = page_urls.handler500
