"""The only room that names ``ts.*``: where TorchServe is patched, and what its calls mean.

TorchServe 0.12.0 is its last release, so the seams do not move; upstream files are named where they are relied on.
"""
