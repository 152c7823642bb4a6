"""Tests that share one region; a package, so that the region ends with the last of them."""
