"""The ``polywire`` command under cProfile, from the signal SIGUSR1 to its end: ``python -m bench.profiled FILE run …``.

What is profiled is the thread of the event loop. What ran is in ``FILE``, for `pstats`.
"""

from __future__ import annotations

import cProfile
import signal
import sys

from polywire.cli import main

profile = cProfile.Profile()
signal.signal(signal.SIGUSR1, lambda *_: profile.enable())
stats = sys.argv.pop(1)
try:
    main()
finally:
    profile.disable()
    profile.dump_stats(stats)
