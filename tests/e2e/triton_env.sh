#!/usr/bin/env bash
# Makes the virtual environment of the real Triton server that the end-to-end tests run against.
#
#   tests/e2e/triton_env.sh [DIR]      DIR is .venv-triton in the repository root unless told otherwise
#
# Does nothing where DIR is up to date. Afterwards DIR/bin/triton starts the server; it takes tritonserver's options.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(realpath --canonicalize-missing "${1:-$root/.venv-triton}")
python=${PYTHON:-python3}
pins=$root/constraints-triton.txt
stamp=$dir/.installed

# What this environment depends on: the pins, this recipe, the interpreter, and its own place.
want=$({ cat "$pins" "$0"; "$python" -c 'import sys; print(sys.version, sys.base_prefix)'; echo "$dir"; } | sha256sum)
if [[ -f $stamp && $(<"$stamp") == "$want" ]]; then
    exit 0
fi

fail() {
    echo "The Triton server for the tests can't be set up: $1" >&2
    exit 1
}

[[ ! -e $dir || -f $dir/pyvenv.cfg ]] || fail "$dir is there and is no virtual environment. Remove it, or name another."
echo "Making ${dir#"$root"/}, which holds the real Triton server for the tests (once; downloads about 100 MB)"
rm -rf "$dir"
"$python" -m venv "$dir"
echo "  installing the packages pinned in constraints-triton.txt"
# The pins are complete, so nothing else is resolved. pip warns of each index that lacks a package.
"$dir/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$pins" \
    2> >(grep -v '^WARNING: Location .* is ignored' >&2) ||
    fail "pip could not install constraints-triton.txt (see above). Its wheels are for Linux on x86-64, glibc 2.35 or later."

version=$("$dir/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
site=$dir/lib/python$version/site-packages
triton=$site/pytriton/tritonserver
stub=$triton/python_backend_stubs/$version/triton_python_backend_stub
[[ -f $stub ]] || fail "its Python backend is not built for Python $version. Name another: make test PYTHON=python3.11"

echo "  joining Triton's Python backend with its stub for Python $version"
# Loading a model hangs unless the stub lies beside the backend.
mkdir "$dir/backends"
cp -r "$triton/backends/python" "$dir/backends/"
install -m 755 "$stub" "$dir/backends/python/"
chmod 755 "$triton/bin/tritonserver"

# The stub embeds this very Python, so it needs its libpython.
libraries=$("$dir/bin/python" -c 'import sys, sysconfig; print(sysconfig.get_config_var("LIBDIR"), sys.base_prefix + "/lib", sep=":")')
libraries=$site/nvidia_pytriton.libs:$libraries
missing=$(LD_LIBRARY_PATH=$libraries ldd "$dir/backends/python/triton_python_backend_stub" | sed -n 's/ => not found//p')
[[ -z $missing ]] || fail "these shared libraries are missing:$missing. A Python built with --enable-shared has its libpython."

cat >"$dir/bin/triton" <<LAUNCHER
#!/usr/bin/env bash
# Starts tritonserver with what its Python backend needs; takes tritonserver's options.
unset PYTHONHOME PYTHONPATH
export PATH="$dir/bin:\$PATH" LD_LIBRARY_PATH="$libraries"
exec "$triton/bin/tritonserver" --backend-directory="$dir/backends" "\$@"
LAUNCHER
chmod 755 "$dir/bin/triton"
echo "$want" >"$stamp"
echo "  done: ${dir#"$root"/}/bin/triton starts it"
