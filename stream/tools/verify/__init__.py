"""Whether an image archive is what it says of itself, and who would refuse it."""

from stream.tools.verify.findings import CONSUMERS, Finding
from stream.tools.verify.verify import Verification, verify

__all__ = ["CONSUMERS", "Finding", "Verification", "verify"]
