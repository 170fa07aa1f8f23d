#!/bin/sh
# One job of the matrix: build an image, and read, hash and send what no job has sent before.
#
#   REGISTRY=registry.example/team UPLOAD=s3://nix-cache sh push.sh api
#
# The registry carries layers. Nix's binary cache, which nix.conf names among its substituters, carries
# store paths, confs, and the digests of layers; UPLOAD is where it is written.
set -eu
name=$1

# What another job has built comes from the binary cache.
conf=$(nix-build --no-out-link -A "$name.conf")

# A small file: who has it hashes no layer of the runtime.
digests=$(nix-build --no-out-link -A runtime.layerDigests)
stream-image cache --import "$digests"

# The registry remembers the other layers, and has the runtime's in a repository next to this one.
stream-image push "$conf" "$REGISTRY/$name" --compress none --registry-cache \
    --from "$REGISTRY/runtime" ${PUSH_OPTIONS-}

nix copy --to "$UPLOAD" "$conf" "$digests"
