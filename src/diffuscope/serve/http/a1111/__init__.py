"""AUTOMATIC1111's interface, ``/sdapi/v1``: whatever speaks to the web UI can use this server."""

from diffuscope.serve.http.a1111.routes import router

__all__ = ["router"]
