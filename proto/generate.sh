#!/usr/bin/env bash
# Regenerates guard/pb from the vendored protocol and from what is written down of Envoy's (`make proto`).
#
# The package is renamed on the way: tritonclient registers the same messages under `inference`, and one process can't
# hold two definitions of a name. Message names never travel on the wire, and the method paths stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=${1:-guard/pb}
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/guard/pb"
for name in grpc_service model_config; do
    sed -e 's/^package inference;/package guard.inference;/' \
        -e 's#^import "model_config.proto";#import "guard/pb/model_config.proto";#' \
        "proto/inference/$name.proto" >"$tree/guard/pb/$name.proto"
done
cp proto/envoy/ext_proc.proto "$tree/guard/pb/"
mkdir -p "$out"
"$python" -m grpc_tools.protoc -I "$tree" --python_out="$tree" --pyi_out="$tree" \
    guard/pb/grpc_service.proto guard/pb/model_config.proto guard/pb/ext_proc.proto
cp "$tree"/guard/pb/*_pb2.py "$tree"/guard/pb/*_pb2.pyi "$out/"
