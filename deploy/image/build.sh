#!/usr/bin/env bash
# Builds the image with buildah, and asks the result for its version. `make image` calls it.
#
#   VARIANT  cpu or gpu
#   BASE     what to build on, by digest; "debootstrap" makes one of Debian's packages, where no registry can be reached
#   TRIAL    1 takes a BASE by its tag too; the image is then tagged as a trial, which is no release
#   PUSH     a repository of a registry, as in registry.example/guard: the image goes there, and its digest, by which it
#            is deployed, to build/. It has none before, for a registry has it compressed; log in with `buildah login`
#   PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS   passed on to pip
#   BUILDAH_VOLUMES   more of pip's files, as for buildah --volume, one a word
set -euo pipefail

cd "$(dirname "$0")/../.."
variant=${VARIANT:-cpu} base=${BASE:-} trial=${TRIAL:-}
if [[ $base != debootstrap && -z $trial && ! $base =~ ^[^@[:space:]]+@sha256:[0-9a-f]{64}$ ]]; then
    echo "BASE=$base doesn't say which bytes to build on: name the image by its digest, as in" \
        "BASE=python:3.11-slim-bookworm@sha256:... (docker buildx imagetools inspect python:3.11-slim-bookworm shows it)," \
        "or BASE=debootstrap. TRIAL=1 takes a tag." >&2
    exit 2
fi
push=${PUSH:-}
if [[ $push == *[@[:space:]]* || ${push##*/} == *:* ]]; then
    echo "PUSH=$push doesn't name a repository: write it without a tag or digest, as in PUSH=registry.example/guard." >&2
    exit 2
fi
base=${base:-python:3.11-slim-bookworm}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' guard/__init__.py)
tag=guard:$version
[ "$variant" = cpu ] || tag=$tag-$variant
[ -z "$trial" ] || tag=$tag-trial
# Without user namespaces and overlay file systems, as in most sandboxes, these still work.
buildah=(buildah --storage-driver "${BUILDAH_STORAGE:-vfs}")

if [ "$base" = debootstrap ]; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root"
    from=$("${buildah[@]}" from scratch)
    "${buildah[@]}" add --quiet "$from" "$root" /
    "${buildah[@]}" commit --rm --quiet "$from" guard-base
    base=localhost/guard-base trial=1 # made here and now, of packages that are signed: it has no digest to name
fi

volumes=()
for volume in ${BUILDAH_VOLUMES:-}; do volumes+=(--volume "$volume"); done
"${buildah[@]}" build --isolation chroot --layers=false --pull-never="$([ "$base" = localhost/guard-base ] && echo true || echo false)" \
    --build-arg "BASE=$base" --build-arg "TRIAL=${trial:+1}" --build-arg "VARIANT=$variant" \
    --build-arg "PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL:-}" --build-arg "PIP_FIND_LINKS=${PIP_FIND_LINKS:-}" \
    "${volumes[@]}" --file deploy/image/Dockerfile --tag "$tag" .

made=$("${buildah[@]}" from --pull-never "localhost/$tag")
trap '"${buildah[@]}" rm "$made" > /dev/null' EXIT
"${buildah[@]}" run --isolation chroot "$made" -- guard --version
echo "made $tag"

if [ -n "$push" ]; then
    file=build/${tag/:/-}.digest
    mkdir -p build
    "${buildah[@]}" push --quiet --digestfile "$file" "localhost/$tag" "docker://$push:${tag#guard:}"
    echo "pushed $push:${tag#guard:}; its digest is in $file. In your kustomization:"
    printf 'images:\n  - name: guard\n    newName: %s\n    digest: %s\n' "$push" "$(< "$file")"
fi
