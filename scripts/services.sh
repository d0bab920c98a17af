# Finds or starts the RabbitMQ and the Postgres that tests and benchmarks run against. Sourced, not run:
#
#   source scripts/services.sh
#   trap gristmill_services_stop EXIT
#   gristmill_services
#
# gristmill_services exports GRISTMILL_TEST_DATABASE_URL (a user that may create databases) and GRISTMILL_TEST_AMQP_URL,
# or says what to do and returns 1. For each service it tries, in this order:
#
#   1. AMQP_URL / DATABASE_URL, if set: that server and no other.
#   2. running    what answers on the default local ports.
#   3. compose    docker-compose.yml, if a Docker daemon answers. The containers stay up for the next run.
#   4. installed  the installed server programs, with data in a temporary directory and on free ports.
#   5. packages   the same, after installing the Debian/Ubuntu packages with apt-get.
#
# gristmill_services_stop ends, by process id, what step 4 or 5 started, and removes its data. It leaves every other server.
#
# GRISTMILL_TEST_POSTGRES_DIR and GRISTMILL_TEST_RABBITMQ_DIR are exported for a server that step 4 or 5 started, and only
# then: its directory, with its process id in the file `pid`, and the program `start` that starts it again. For such a
# RabbitMQ, GRISTMILL_TEST_RABBITMQCTL is the command line that steers it.
#
# Settings (environment):
#   GRISTMILL_SERVICES       which of the steps 2 to 5 to try; default "running compose installed packages"
#   GRISTMILL_POSTGRES_PORT  the local port where step 2 looks and step 3 publishes; default 5432
#   GRISTMILL_RABBITMQ_PORT  the same; default 5672
#   GRISTMILL_POSTGRES_FSYNC on or off, for a Postgres that step 4 or 5 starts; default off for scripts/test and
#                            scripts/test-python, which do not measure, else on
#   PGPASSWORD               the password to try with the local users in step 2
#   POSTGRES_PASSWORD        the password of docker-compose.yml; default gristmill

gristmill_root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=machine.sh
source "$gristmill_root/scripts/machine.sh"
# What gristmill_services_stop must end and remove. epmd is Erlang's name server, here one for our node alone.
gristmill_temp_dir=
gristmill_epmd_port=
gristmill_apt_updated=

gristmill_services() {
  gristmill_find postgres DATABASE_URL || return 1
  gristmill_find rabbitmq AMQP_URL || return 1
  export GRISTMILL_TEST_DATABASE_URL GRISTMILL_TEST_AMQP_URL
}

gristmill_services_stop() {
  gristmill_stop RabbitMQ "${GRISTMILL_TEST_RABBITMQ_DIR:-}" TERM
  if [ -n "$gristmill_epmd_port" ] && command -v epmd >/dev/null; then
    # It listens on a port that only our node knew, so this ends no other node's name server.
    ERL_EPMD_PORT=$gristmill_epmd_port epmd -kill >/dev/null 2>&1 || gristmill_say "no epmd left on port $gristmill_epmd_port"
    gristmill_epmd_port=
  fi
  # INT is the fast shutdown: it does not wait for clients.
  gristmill_stop Postgres "${GRISTMILL_TEST_POSTGRES_DIR:-}" INT
  if [ -n "$gristmill_temp_dir" ]; then
    rm -rf -- "$gristmill_temp_dir"
    gristmill_temp_dir=
  fi
  unset GRISTMILL_TEST_POSTGRES_DIR GRISTMILL_TEST_RABBITMQ_DIR
}

# Ends a server that was started here; tests may have restarted it, so its id is read from its file.
gristmill_stop() { # what, its directory, signal
  local pid
  if [ -z "$2" ] || [ ! -s "$2/pid" ]; then
    return 0
  fi
  pid=$(head -n 1 "$2/pid" | tr -cd '0-9')
  gristmill_say "stopping $1 (pid $pid)"
  gristmill_end "$pid" "$3" || gristmill_say "could not stop it"
}

# The C compiler that SQLite and ring are built with.
gristmill_compiler() {
  command -v cc >/dev/null && return 0
  gristmill_say "no C compiler (cc): installing build-essential"
  gristmill_apt build-essential && command -v cc >/dev/null && return 0
  gristmill_say "no C compiler: install one that runs as 'cc' (Debian/Ubuntu: apt-get install build-essential) and run this again"
  return 1
}

# --- One service ----------------------------------------------------------------------------------------------------

gristmill_find() { # postgres|rabbitmq, name of the variable with its URL
  local service=$1 variable=$2 step
  local url=${!variable:-}
  if [ "$service" = postgres ] && [ "${url%%:*}" = sqlite ]; then
    gristmill_say "DATABASE_URL names a SQLite file; the tests need a Postgres as well, looking for one"
    url=
  fi
  if [ -n "$url" ]; then
    gristmill_say "using $variable for $service"
    "gristmill_${service}_given" "$url" && return 0
    gristmill_say "no $service there: start it, or unset $variable to have one found or started"
    return 1
  fi
  for step in ${GRISTMILL_SERVICES:-running compose installed packages}; do
    case $step in
      running | compose | installed | packages) ;;
      *) gristmill_say "GRISTMILL_SERVICES: unknown step '$step' (running, compose, installed, packages)"; return 1 ;;
    esac
    "gristmill_${service}_$step" && return 0
  done
  gristmill_say "no $service: set $variable, or start Docker, or install the server (Debian/Ubuntu: postgresql, rabbitmq-server), and run this again"
  return 1
}

# --- Postgres -------------------------------------------------------------------------------------------------------

gristmill_postgres_given() { # url
  local url=$1 host port answer
  read -r host port < <(gristmill_address "$url" 5432)
  if [ "$host" != - ] && ! gristmill_postgres_answers "$host" "$port"; then
    gristmill_say "nothing that speaks Postgres answers at $host:$port"
    return 1
  fi
  # A query part may hold parameters that psql refuses; the tests will say what is wrong with such a URL.
  if command -v psql >/dev/null && [ "$url" = "${url%%\?*}" ]; then
    if ! answer=$(gristmill_postgres_may_create "$url" 2>&1); then
      gristmill_say "${answer%%$'\n'*}"
      return 1
    fi
    if [ "$answer" != t ]; then
      gristmill_say "its user may not create databases, and each test makes its own: ALTER ROLE ... CREATEDB"
      return 1
    fi
    gristmill_postgres_room "$url"
  fi
  GRISTMILL_TEST_DATABASE_URL=$url
}

gristmill_postgres_running() {
  local port=${GRISTMILL_POSTGRES_PORT:-5432} user password url answer
  if ! gristmill_postgres_answers 127.0.0.1 "$port"; then
    gristmill_say "no Postgres on 127.0.0.1:$port"
    return 1
  fi
  for user in postgres root "$(id -un)"; do
    for password in "${PGPASSWORD:-}" "${POSTGRES_PASSWORD:-gristmill}"; do
      url=$(gristmill_postgres_url "$user" "$password" "$port")
      if command -v psql >/dev/null; then
        answer=$(gristmill_postgres_may_create "$url" 2>/dev/null) || continue
        [ "$answer" = t ] || continue
        gristmill_postgres_room "$url"
      else
        # Without psql, only a login without a password can be tried, and its rights not at all.
        gristmill_postgres_trusts "$user" "$port" || continue
        url=$(gristmill_postgres_url "$user" "" "$port")
      fi
      gristmill_say "using the Postgres on 127.0.0.1:$port as user $user"
      GRISTMILL_TEST_DATABASE_URL=$url
      return 0
    done
  done
  gristmill_say "a Postgres answers on 127.0.0.1:$port, but no user is known that may log in and create databases (DATABASE_URL or PGPASSWORD would name one)"
  return 1
}

gristmill_postgres_compose() {
  local port
  gristmill_compose postgres GRISTMILL_POSTGRES_PORT 5432 port || return 1
  if ! gristmill_wait 60 gristmill_postgres_answers 127.0.0.1 "$port"; then
    gristmill_say "the Postgres container does not answer on 127.0.0.1:$port"
    return 1
  fi
  GRISTMILL_TEST_DATABASE_URL=$(gristmill_postgres_url postgres "${POSTGRES_PASSWORD:-gristmill}" "$port")
}

gristmill_postgres_installed() {
  local bin user dir port fsync
  if ! bin=$(gristmill_postgres_bin); then
    gristmill_say "no Postgres server programs installed"
    return 1
  fi
  # Postgres refuses to run as root.
  user=$(gristmill_user postgres nobody)
  port=$(gristmill_free_port) || return 1
  gristmill_service_dir postgres "$user" dir || return 1
  gristmill_say "starting Postgres from $bin on 127.0.0.1:$port with its data in $dir"
  if ! gristmill_as "$user" "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --no-locale >"$gristmill_temp_dir/initdb.log" 2>&1; then
    gristmill_say "initdb failed:"
    tail -n 5 "$gristmill_temp_dir/initdb.log" >&2
    return 1
  fi
  # Without fsync a server that is killed loses nothing, a machine that fails does, and full pages would not help it.
  case ${0##*/} in
    test | test-python) fsync=${GRISTMILL_POSTGRES_FSYNC:-off} ;;
    *) fsync=${GRISTMILL_POSTGRES_FSYNC:-on} ;;
  esac
  # The tests run in parallel, each with pools of its own: more connections than the default 100.
  gristmill_program "$dir/start" "$user" "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 \
    -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=300 -c fsync=$fsync -c full_page_writes=$fsync -c external_pid_file=$dir/pid" start
  export GRISTMILL_TEST_POSTGRES_DIR=$dir
  if ! "$dir/start" >/dev/null; then
    gristmill_say "Postgres did not start:"
    tail -n 5 "$dir/log" >&2
    gristmill_stop Postgres "$dir" INT
    unset GRISTMILL_TEST_POSTGRES_DIR
    return 1
  fi
  GRISTMILL_TEST_DATABASE_URL=$(gristmill_postgres_url postgres "" "$port")
}

gristmill_postgres_packages() {
  gristmill_say "installing Postgres"
  gristmill_apt postgresql || return 1
  # The package starts a server of its own, but with no login over TCP that is known here: a private one is started.
  gristmill_postgres_installed
}

gristmill_postgres_bin() {
  local dir
  for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin | sort -rV) \
    "$(pg_config --bindir 2>/dev/null)" "$(dirname -- "$(command -v initdb || echo /nowhere/initdb)")"; do
    if [ -x "$dir/initdb" ] && [ -x "$dir/pg_ctl" ] && [ -x "$dir/postgres" ]; then
      printf '%s\n' "$dir"
      return 0
    fi
  done
  return 1
}

gristmill_postgres_url() { # user password port
  printf 'postgres://%s%s@127.0.0.1:%s/postgres\n' "$(gristmill_encode "$1")" "${2:+:$(gristmill_encode "$2")}" "$3"
}

gristmill_postgres_may_create() { # url
  PGCONNECT_TIMEOUT=5 psql -XAtqw "$1" -c "select rolsuper or rolcreatedb from pg_roles where rolname = current_user"
}

# Says so where the tests may run out of connections; they run all the same.
gristmill_postgres_room() { # url
  local most
  most=$(PGCONNECT_TIMEOUT=5 psql -XAtqw "$1" -c 'SHOW max_connections' 2>/dev/null) || return 0
  case $most in
    '' | *[!0-9]*) return 0 ;;
  esac
  if [ "$most" -lt 100 ]; then
    gristmill_say "this Postgres takes $most connections (max_connections), and the tests may need 100: raise it, or lower RUST_TEST_THREADS"
  fi
}

# An SSLRequest is answered with one byte, S or N, by every Postgres, before any login.
gristmill_postgres_answers() { # host port
  case $(gristmill_ask "$1" "$2" 1 '\0\0\0\10\4\322\26\57') in
    53 | 4e) return 0 ;;
    *) return 1 ;;
  esac
}

# A StartupMessage of protocol 3.0 is answered with AuthenticationOk where no password is asked, and then with S
# (ParameterStatus) if the user exists.
gristmill_postgres_trusts() { # user port
  local length
  length=$(printf '\\%03o' $((33 + ${#1})))
  [ "$(gristmill_ask 127.0.0.1 "$2" 10 "\\0\\0\\0$length\\0\\3\\0\\0user\\0$1\\0database\\0postgres\\0\\0")" = 52000000080000000053 ]
}

# --- RabbitMQ -------------------------------------------------------------------------------------------------------

gristmill_rabbitmq_given() { # url
  local host port default=5672
  [ "${1%%:*}" = amqps ] && default=5671
  read -r host port < <(gristmill_address "$1" "$default")
  if [ "$default" = 5671 ]; then
    # Inside TLS nothing can be asked from here: that the port is open must do.
    gristmill_open "$host" "$port" || { gristmill_say "nothing listens at $host:$port"; return 1; }
  else
    gristmill_rabbitmq_answers "$host" "$port" || { gristmill_say "nothing that speaks AMQP answers at $host:$port"; return 1; }
  fi
  GRISTMILL_TEST_AMQP_URL=$1
}

gristmill_rabbitmq_running() {
  local port=${GRISTMILL_RABBITMQ_PORT:-5672}
  if ! gristmill_rabbitmq_answers 127.0.0.1 "$port"; then
    gristmill_say "no RabbitMQ on 127.0.0.1:$port"
    return 1
  fi
  gristmill_say "using the RabbitMQ on 127.0.0.1:$port as user guest"
  GRISTMILL_TEST_AMQP_URL=$(gristmill_rabbitmq_url "$port")
}

gristmill_rabbitmq_compose() {
  local port
  gristmill_compose rabbitmq GRISTMILL_RABBITMQ_PORT 5672 port || return 1
  if ! gristmill_wait 60 gristmill_rabbitmq_answers 127.0.0.1 "$port"; then
    gristmill_say "the RabbitMQ container does not answer on 127.0.0.1:$port"
    return 1
  fi
  GRISTMILL_TEST_AMQP_URL=$(gristmill_rabbitmq_url "$port")
}

gristmill_rabbitmq_installed() {
  local program user dir port dist_port epmd_port
  if ! program=$(gristmill_rabbitmq_program); then
    gristmill_say "no RabbitMQ server program installed"
    return 1
  fi
  user=$(gristmill_user rabbitmq root)
  port=$(gristmill_free_port) && dist_port=$(gristmill_free_port) && epmd_port=$(gristmill_free_port) || return 1
  gristmill_service_dir rabbitmq "$user" dir || return 1
  printf 'listeners.tcp.local = 127.0.0.1:%s\n' "$port" >"$dir/rabbitmq.conf"
  printf '[].\n' >"$dir/enabled_plugins"
  : >"$dir/rabbitmq-env.conf"
  gristmill_say "starting RabbitMQ from $program on 127.0.0.1:$port with its data in $dir"
  # Every path is our own, so that nothing of an installed node is read, and the name server (epmd) as well.
  local settings=(
    env HOME="$dir"
    ERL_EPMD_PORT="$epmd_port" ERL_EPMD_ADDRESS=127.0.0.1 ERL_FLAGS="-kernel inet_dist_use_interface {127,0,0,1}"
    RABBITMQ_NODENAME="gristmill-$$@localhost" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$port" RABBITMQ_DIST_PORT="$dist_port"
    RABBITMQ_CONF_ENV_FILE="$dir/rabbitmq-env.conf" RABBITMQ_CONFIG_FILE="$dir/rabbitmq.conf"
    RABBITMQ_ADVANCED_CONFIG_FILE="$dir/advanced.config" RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins"
    RABBITMQ_MNESIA_BASE="$dir/data" RABBITMQ_LOG_BASE="$dir/log" RABBITMQ_PID_FILE="$dir/pid"
  )
  gristmill_program "$dir/start" "$user" "${settings[@]}" "$program" -detached
  gristmill_program "$dir/ctl" "$user" "${settings[@]}" "${program%-server}ctl"
  export GRISTMILL_TEST_RABBITMQ_DIR=$dir GRISTMILL_TEST_RABBITMQCTL="$dir/ctl"
  if ! "$dir/start" >"$gristmill_temp_dir/rabbitmq-start.log" 2>&1; then
    gristmill_say "RabbitMQ did not start:"
    tail -n 5 "$gristmill_temp_dir/rabbitmq-start.log" >&2
    unset GRISTMILL_TEST_RABBITMQ_DIR GRISTMILL_TEST_RABBITMQCTL
    return 1
  fi
  gristmill_epmd_port=$epmd_port
  if ! gristmill_wait 90 gristmill_rabbitmq_answers 127.0.0.1 "$port"; then
    gristmill_say "RabbitMQ does not answer on 127.0.0.1:$port; the end of its log:"
    tail -n 5 "$dir"/log/*.log >&2
    gristmill_stop RabbitMQ "$dir" TERM
    unset GRISTMILL_TEST_RABBITMQ_DIR GRISTMILL_TEST_RABBITMQCTL
    return 1
  fi
  GRISTMILL_TEST_AMQP_URL=$(gristmill_rabbitmq_url "$port")
}

gristmill_rabbitmq_packages() {
  gristmill_say "installing RabbitMQ"
  gristmill_apt rabbitmq-server || return 1
  # Where the package has started the server, that one is used; where packages start nothing (containers), a private one.
  gristmill_rabbitmq_running || gristmill_rabbitmq_installed
}

# The program itself: the wrapper in the search path of Debian and Fedora switches to its own user and directories.
gristmill_rabbitmq_program() {
  local program
  for program in $(printf '%s\n' /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server | sort -rV) \
    /usr/lib/rabbitmq/bin/rabbitmq-server "$(command -v rabbitmq-server)"; do
    if [ -x "$program" ]; then
      printf '%s\n' "$program"
      return 0
    fi
  done
  return 1
}

gristmill_rabbitmq_url() { # port
  printf 'amqp://guest:guest@127.0.0.1:%s/%%2f\n' "$1"
}

# The protocol header of AMQP 0-9-1 is answered with a method frame (type 1), before any login.
gristmill_rabbitmq_answers() { # host port
  [ "$(gristmill_ask "$1" "$2" 1 'AMQP\0\0\11\1')" = 01 ]
}
