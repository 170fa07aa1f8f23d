"""Check that an image archive is what it claims to be, and which consumers would refuse it."""

from stream.tools.verify.findings import CONSUMERS, Finding
from stream.tools.verify.verify import Verification, verify

__all__ = ["CONSUMERS", "Finding", "Verification", "verify"]
