"""Tests of stream/engines and of loading into them."""
