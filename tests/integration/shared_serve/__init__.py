"""Tests that share a cluster with Serve; a package, so that it ends with the last of them."""
