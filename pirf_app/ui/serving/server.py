"""What all tabs and endpoints of one server share."""

from dataclasses import dataclass

from ...hub.collection import Collection
from .lanes import Lanes
from .visitors import Visitors


@dataclass(frozen=True)
class Server:
    """Everybody's models, who is here with which of their own, and the lane that all of them compute in."""

    library: Collection
    visitors: Visitors
    lanes: Lanes
