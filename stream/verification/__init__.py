"""Whether an image archive is what it says of itself, and who would refuse it."""

from stream.verification.findings import CONSUMERS, Finding
from stream.verification.verify import Verification, verify

__all__ = ["CONSUMERS", "Finding", "Verification", "verify"]
