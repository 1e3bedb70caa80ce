"""Images, copies, fragments and retention: the open format on an object store.

``Pool`` is the room's front door: it creates, resumes, opens, lists, recalls, verifies and
deletes images. What lies in the bucket is specified in docs/format.md.
"""

from connector.pool.config import PoolConfig
from connector.pool.manifest import Manifest, Origin, Retention
from connector.pool.pool import Pool

__all__ = ["Manifest", "Origin", "Pool", "PoolConfig", "Retention"]
