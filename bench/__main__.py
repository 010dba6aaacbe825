"""`python -m bench [PART ...]` in the project's folder."""

import sys

from bench.bench import PARTS, bench

if unknown := [part for part in sys.argv[1:] if part not in PARTS]:
    sys.exit(f"bench has no part {unknown[0]!r}, but {', '.join(PARTS)}")
bench(sys.argv[1:])
