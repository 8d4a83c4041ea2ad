"""Tests of the web console in a real browser; arguments are names of classes or tests.

EVENTS_BIN is the binary to test, CHROMIUM the browser, and AXE the file axe.min.js, without which accessibility is not
checked. LONG_SESSION is the number of events in the longest session, 3,000 without it.
"""

import unittest

from accessibility import AccessibilityTest
from case import stage
from hostile_content import HostileContentTest
from live import EditTest, FollowTest
from long_session import LongSessionTest
from reading import ReadingTest, SignInTest

__all__ = ["AccessibilityTest", "EditTest", "FollowTest", "HostileContentTest", "LongSessionTest", "ReadingTest", "SignInTest"]

if __name__ == "__main__":
    with stage.running():
        unittest.main()
