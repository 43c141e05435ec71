"""`python -m vswitch.fabric --control-fd N`, started by the coordinator and never by hand."""

from __future__ import annotations

import os
import resource
import signal
import sys

from ..namespace import die_with_parent
from .process import serve

if len(sys.argv) != 3 or sys.argv[1] != "--control-fd" or not sys.argv[2].isdecimal():
    sys.exit("usage: python -m vswitch.fabric --control-fd N")
# A port takes one descriptor or two; the soft limit, often 1024, is there for programs that use select().
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
# A parent that was gone before this line has closed its end of the channel, which ends the fabric as well. It is not to
# be killed: its ports may have files to remove and scripts to run.
die_with_parent(os.getppid(), by=signal.SIGTERM)
serve(int(sys.argv[2]))
