# What the scripts of this folder share. They work in a copy of the tree, and write nothing into it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

copy_tree() { # into $work/tree, and goes there
  mkdir "$work/tree"
  tar -c -C "$root" --exclude=./.git --exclude='./.venv*' --exclude='./.*_cache' \
    --exclude=__pycache__ --exclude=./build --exclude=./jaxqr/_native . | tar -x -C "$work/tree"
  cd "$work/tree"
}

readme_command() { # the shell block of README, or of $2, that follows the mark <!-- command: $1 -->
  awk -v mark="<!-- command: $1 -->" '
    $0 == mark {found=1; next}
    found && /^```sh/ {inside=1; next}
    inside && /^```/ {exit}
    inside' "${2:-README.md}"
}

run_readme_command() { # as a reader would; of README, or of $2
  local command
  command=$(readme_command "$@")
  [ -n "$command" ] || { echo "${2:-README.md} has no command marked '$1'" >&2; exit 1; }
  echo "== the command '$1' of ${2:-README.md}"
  bash -euc "$command"
}

find_python() { # an interpreter of the first of these versions that is on PATH or under pyenv
  local version candidate
  for version in "$@"; do
    for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version"*/bin/python3; do
      if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
        command -v "$candidate"
        return
      fi
    done
  done
  echo "no Python $* on this machine" >&2
  return 1
}

install_with_oldest() { # README's installation in $work/tree/.venv: Python 3.11, the oldest JAX
  local python
  python=$(find_python 3.11)
  mkdir "$work/bin" && ln -s "$python" "$work/bin/python3"
  printf 'jax==0.10.2\njaxlib==0.10.2\n' > "$work/oldest.txt"
  PIP_CONSTRAINT="$work/oldest.txt" PATH="$work/bin:$PATH" run_readme_command install
}

install_with_newest() { # $work/tree/.venv-newest: the newest JAX, the kernels that are there already
  local python
  python=$(find_python 3.14 3.13 3.12)
  "$python" -m venv .venv-newest
  JAXQR_NATIVE=0 .venv-newest/bin/pip install --quiet -e ".[test]"
  .venv-newest/bin/python -m jaxqr
}
