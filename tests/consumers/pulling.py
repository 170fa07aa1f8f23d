"""How each consumer pulls an image from a registry on this machine, under the name that tests run it by."""

from .consumer import Consumer
from .images import REPO_TAG

_CTR = "ctr --address=/run/containerd/grpc.sock --namespace=stream-image images"
_PULLS = {
    "Docker": "docker pull --quiet $REF && docker tag $REF TAG",
    "Podman": "podman pull --quiet --tls-verify=false $REF && podman tag $REF localhost/TAG",
    "Buildah": "buildah pull --quiet --tls-verify=false $REF && buildah tag $REF localhost/TAG",
    "Containerd": f"{_CTR} pull --plain-http --snapshotter=overlayfs $REF"
    f" && {_CTR} tag --force $REF docker.io/library/TAG",
    "Skopeo": "skopeo copy --quiet --src-tls-verify=false docker://$REF dir:/run/skopeo/blobs",
}


def pull_command(consumer: Consumer, reference: str) -> str:
    """Return the shell command that pulls `reference`, which may be a variable of the shell."""
    words = _PULLS[type(consumer).__name__]
    return words.replace("TAG", REPO_TAG).replace("$REF", reference)
