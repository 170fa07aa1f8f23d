"""Container engines that take images: docker, podman and containerd, on this host or another.

An engine is asked which layers it has, takes an archive without them, is checked, and only
then gives the image its name. Must not know tar, nor where layers come from.
"""
