# What scripts/services.sh needs of the machine: Docker, apt, users, processes, sockets. Sourced by it, not run. Uses its
# variables gristmill_root, gristmill_temp_dir and gristmill_apt_updated.

# Starts one service of docker-compose.yml and sets the variable named last to the local port that reaches it.
gristmill_compose() { # service, name of the port variable, port inside, name of the result
  local service=$1 variable=$2 inside=$3 published local_port
  if ! command -v docker >/dev/null; then
    gristmill_say "no Docker here"
    return 1
  fi
  if ! gristmill_limit 20 docker info >/dev/null 2>&1 || ! docker compose version >/dev/null 2>&1; then
    gristmill_say "no Docker daemon answers (or no 'docker compose')"
    return 1
  fi
  local_port=${!variable:-$inside}
  published=$(gristmill_docker_compose port "$service" "$inside" 2>/dev/null) || published=
  if [ -n "$published" ]; then
    local_port=${published##*:}
  elif gristmill_open 127.0.0.1 "$local_port"; then
    local_port=$(gristmill_free_port) || return 1
  fi
  gristmill_say "starting $service with Docker Compose on 127.0.0.1:$local_port (docker compose down ends it)"
  if ! env "$variable=$local_port" docker compose --project-directory "$gristmill_root" -f "$gristmill_root/docker-compose.yml" \
    up -d --wait "$service" >&2; then
    gristmill_say "docker compose could not start $service"
    return 1
  fi
  printf -v "$4" '%s' "$local_port"
}

gristmill_docker_compose() {
  docker compose --project-directory "$gristmill_root" -f "$gristmill_root/docker-compose.yml" "$@"
}

gristmill_apt() { # package…
  local sudo=
  if ! command -v apt-get >/dev/null; then
    gristmill_say "no apt-get here, so $* cannot be installed"
    return 1
  fi
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
      gristmill_say "not root and no sudo, so $* cannot be installed"
      return 1
    fi
    sudo=sudo
  fi
  gristmill_say "running: ${sudo:+sudo }apt-get install $*"
  if [ -z "$gristmill_apt_updated" ]; then
    # A repository that is not wanted here may be out of order: what counts is whether the install works.
    $sudo apt-get update -qq >&2 || gristmill_say "apt-get update reported an error; trying to install all the same"
    gristmill_apt_updated=yes
  fi
  if ! $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2; then
    gristmill_say "apt-get could not install $*"
    return 1
  fi
}

# Makes a directory for a service, owned by its user, inside one temporary directory that is removed at the end.
gristmill_service_dir() { # name, user, name of the result
  if [ -z "$gristmill_temp_dir" ]; then
    gristmill_temp_dir=$(mktemp -d "${TMPDIR:-/tmp}/gristmill-services.XXXXXX") && chmod 755 "$gristmill_temp_dir" || return 1
  fi
  local made
  made=$(mktemp -d "$gristmill_temp_dir/$1.XXXXXX") || return 1
  if [ "$(id -u)" = 0 ]; then
    chown "$2" "$made" || return 1
  fi
  printf -v "$3" '%s' "$made"
}

# The user that a server is started as: ourselves, or, where we are root, the first of the two that exists.
gristmill_user() { # preferred fallback
  if [ "$(id -u)" != 0 ]; then
    id -un
  elif id -u "$1" >/dev/null 2>&1; then
    printf '%s\n' "$1"
  else
    printf '%s\n' "$2"
  fi
}

gristmill_as() { # user command…
  local user=$1
  shift
  if [ "$user" = "$(id -un)" ]; then
    (cd / && "$@")
  else
    (cd / && runuser -u "$user" -- "$@")
  fi
}

# Writes a program that runs a command line as a user; arguments of the program are added to it.
gristmill_program() { # file user command…
  local file=$1 user=$2
  shift 2
  if [ "$user" != "$(id -un)" ]; then
    set -- runuser -u "$user" -- "$@"
  fi
  printf '#!/usr/bin/env bash\ncd / && exec%s "$@"\n' "$(printf ' %q' "$@")" >"$file" && chmod 755 "$file"
}

# Ends one process and waits until it is gone; after 30 s it is killed.
gristmill_end() { # pid signal
  kill -s "$2" "$1" 2>/dev/null || return 0
  gristmill_wait 30 gristmill_gone "$1" && return 0
  gristmill_say "pid $1 did not stop within 30 s: killing it"
  kill -s KILL "$1" 2>/dev/null
}

gristmill_gone() { # pid
  ! kill -0 "$1" 2>/dev/null
}

gristmill_wait() { # seconds command…
  local tries=$(($1 * 5))
  shift
  while [ "$tries" -gt 0 ]; do
    "$@" && return 0
    sleep 0.2
    tries=$((tries - 1))
  done
  return 1
}

# Sends the bytes of a printf format and prints the first bytes of the answer in hexadecimal.
gristmill_ask() { # host port count format
  # shellcheck disable=SC2016
  gristmill_limit 5 bash -c '
    exec 3<>"/dev/tcp/$1/$2" && printf "$4" >&3 && head -c "$3" <&3 | od -An -v -tx1 | tr -d " \n"
  ' gristmill_ask "$@" 2>/dev/null
}

gristmill_open() { # host port
  # shellcheck disable=SC2016
  gristmill_limit 5 bash -c 'exec 3<>"/dev/tcp/$1/$2"' gristmill_open "$@" 2>/dev/null
}

# Below the range from which the system takes the ports of outgoing connections.
gristmill_free_port() {
  local port tries=100
  while [ "$tries" -gt 0 ]; do
    port=$((20000 + RANDOM % 12000))
    if ! gristmill_open 127.0.0.1 "$port"; then
      printf '%s\n' "$port"
      return 0
    fi
    tries=$((tries - 1))
  done
  gristmill_say "no free port found"
  return 1
}

# Host and port of a URL; "-" as the host where the URL names none (a Unix socket).
gristmill_address() { # url default-port
  local rest=${1#*://} host port=$2
  rest=${rest%%[/?]*}
  rest=${rest##*@}
  case $rest in
    \[*) host=${rest%%]*} host=${host#[} rest=${rest#*]} ;;
    *) host=${rest%%:*} rest=${rest#"$host"} ;;
  esac
  [ -n "${rest#:}" ] && port=${rest#:}
  printf '%s %s\n' "${host:--}" "$port"
}

gristmill_encode() { # text
  local LC_ALL=C text=$1 out="" char i
  for ((i = 0; i < ${#text}; i++)); do
    char=${text:i:1}
    case $char in
      [a-zA-Z0-9._~-]) out+=$char ;;
      # A byte above 127 is negative to printf.
      *) printf -v char '%%%02X' "'$char" && out+=${char/FFFFFFFFFFFFFF/} ;;
    esac
  done
  printf '%s\n' "$out"
}

gristmill_limit() { # seconds command…
  if command -v timeout >/dev/null; then
    timeout "$@"
  else
    shift
    "$@"
  fi
}

gristmill_say() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
}
