"""The doctor: finds out what is wrong with an installation, by really trying, and what to do.

``findings`` says what a finding is; ``host`` looks at this host, ``network`` at the way to the
store, ``rights`` at what may be done there, ``bucket`` at how the bucket is set up and ``state`` at
what lies in it. Nothing is changed but the doctor's own probes, below ``PREFIX/.probe-``, which it
removes; while a daemon runs, its state is looked at and not touched.
"""

from connector.doctor.examine import examine
from connector.doctor.findings import Finding, Level, to_json, worst

__all__ = ["Finding", "Level", "examine", "to_json", "worst"]
