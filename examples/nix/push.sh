#!/bin/sh
# Push images to a registry, in CI. Those that it has already are not even built: a derived tag is known
# before, and changes with the image.
#
#   sh push.sh registry.example
set -eu
registry=$1

for name in hello stable; do
    image=$registry/$name:$(nix eval --raw ".#$name.imageTag")
    if skopeo inspect "docker://$image" > /dev/null; then
        echo "$image: pushed before" >&2
        continue
    fi
    # The digests are a small file of their own, for a binary cache: who has it hashes nothing.
    nix build --out-link "$name.digests" ".#$name.layerDigests"
    stream-image cache --import "$name.digests"
    nix build --out-link "$name" ".#$name"
    stream-image push "./$name" "$image"
done
