# Sourced by the scripts beside it, with `set -eu` on. Sets root, python and environment.
# shellcheck shell=sh

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
environment=${AFTERWORD_ENV:-$root/.venv}
case $environment in /*) ;; *) environment=$PWD/$environment ;; esac

say() { printf 'afterword: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# A Python that can make the environment: 3.11 or later, with its whole standard library
# (Debian's python3-minimal has only a part of it).
find_python() {
    for candidate in "${AFTERWORD_PYTHON:-python3}" python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$candidate" -c 'import sys, tomllib, json, fcntl, venv; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1; then
            python=$candidate
            return 0
        fi
    done
    return 1
}

install_python() {
    if command -v uv >/dev/null 2>&1; then
        uv python find --no-project '>=3.11' >/dev/null 2>&1 || uv python install 3.12 || return 1
        AFTERWORD_PYTHON=$(uv python find --no-project '>=3.11')
        return 0
    fi
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ "$(id -u)" = 0 ]; then
        as_root="env"
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root=sudo
    else
        return 1
    fi
    say 'installing Python (apt-get install python3 python3-venv)'
    $as_root apt-get update -qq || true
    $as_root apt-get install -y -qq --no-install-recommends python3 python3-venv
}

# run_module NAME ARGUMENT...: a module of scripts/, under the machine's Python.
run_module() {
    module=scripts.$1
    shift
    (cd "$root" && exec "$python" -m "$module" "$@")
}

# make_environment PART...: the parts are names of files in locks/.
make_environment() {
    if ! find_python; then
        if ! { install_python && find_python; }; then
            fail 'Python 3.11 or later is needed. On Debian 12 or later: sudo apt-get install -y python3 python3-venv'
        fi
    fi
    run_module environment "$environment" "$@"
}
