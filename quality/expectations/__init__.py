"""The rules in Great Expectations: expectations for boxes, a suite of all rules, checkpoints and Data Docs.

Only the modules of this package import Great Expectations, which takes seconds, and only they need the extra
``quality``. ``import quality.expectations.boxes`` makes the expectations known to a project of your own.
"""

import os

# Read by Great Expectations when it is imported: it reports its usage otherwise.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
