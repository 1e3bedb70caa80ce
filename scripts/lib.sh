# What the scripts share; sourced by them, never run. Sets root (the checkout) and venv.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck disable=SC2034  # the scripts that source this file use it
venv=$root/.venv

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

# usage_if_asked ARGS...: print the comment at the head of the calling script and leave,
# when the first argument asks for help.
usage_if_asked() {
  case ${1-} in
  -h | --help)
    sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
  esac
}

# find_python: print the first interpreter that is new enough and really runs (a version
# manager's stub may be on the path and refuse).
find_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  die "no Python 3.11 or later on the path; install python3 (3.11+) with pip"
}

# create_venv PYTHON FOLDER: make an empty virtual environment. Debian ships venv without
# ensurepip, so where that is missing the system's pip installs into it.
create_venv() {
  if "$1" -c 'import ensurepip, venv' 2>/dev/null; then
    "$1" -m venv --clear "$2"
  elif "$1" -m pip --version >/dev/null 2>&1; then
    "$1" -m venv --clear --without-pip "$2"
  else
    die "$1 has neither ensurepip nor pip; install python3-venv or python3-pip"
  fi
}

# pip_for FOLDER ARGS...: run pip for a virtual environment.
pip_for() {
  local folder=$1 python
  shift
  if "$folder/bin/python" -c 'import pip' 2>/dev/null; then
    "$folder/bin/python" -m pip --disable-pip-version-check "$@"
  else
    python=$(find_python) || return
    "$python" -m pip --disable-pip-version-check --python "$folder/bin/python" "$@"
  fi
}

venv_state() {
  printf '%s\n' "$root"
  "$venv/bin/python" -VV
  cat "$root/requirements/dev.txt" "$root/pyproject.toml" | sha256sum
}

# ensure_venv: .venv holds exactly the locked packages and this checkout. Costs nothing, and needs
# no network, when it already does; says so on standard error when it must install.
ensure_venv() {
  local stamp=$venv/.installed python
  exec 9<"$root/pyproject.toml"
  flock 9 # two scripts started at once must not install into each other
  if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" != "$root" ]; then
    rm -rf "$venv" # the checkout was moved: the programs in it name the old place
  fi
  if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    printf '%s: making %s\n' "${0##*/}" "$venv" >&2
    python=$(find_python)
    create_venv "$python" "$venv"
  fi
  if ! venv_state | cmp -s - "$stamp"; then
    printf '%s: installing the locked packages into %s\n' "${0##*/}" "$venv" >&2
    rm -f "$stamp"
    pip_for "$venv" install -qq --require-hashes \
      --requirement "$root/requirements/dev.txt" >&2
    # setuptools is locked and installed by now; build isolation would fetch it unlocked.
    pip_for "$venv" install -qq --no-deps --no-build-isolation \
      --editable "$root" >&2
    venv_state >"$stamp"
  fi
  exec 9>&-
}
