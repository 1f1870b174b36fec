"""Many requests on one model: they wait their turn, share the calls of its networks, and can be watched and cancelled.

``Engine(pipe).submit(request)`` is all that a door needs, be it HTTP, a batch or a replica.
"""

from diffuscope.serve.branches import Origin
from diffuscope.serve.engine import Engine, Limits
from diffuscope.serve.events import Event
from diffuscope.serve.job import Job

__all__ = ["Engine", "Event", "Job", "Limits", "Origin"]
