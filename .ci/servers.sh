# shellcheck shell=bash
# What the checks need beside Go. Sourced by run.

# install_tools installs what is absent.
install_tools() {
	local need=()
	command -v gcc >/dev/null || need+=(gcc libc6-dev) # for the race detector
	command -v curl >/dev/null || need+=(curl ca-certificates)
	command -v redis-server >/dev/null || need+=(redis-server)
	command -v node >/dev/null || need+=(nodejs)
	command -v npm >/dev/null || need+=(npm)
	if ((${#need[@]} > 0)); then
		local root=()
		((EUID == 0)) || root=(sudo)
		export DEBIAN_FRONTEND=noninteractive
		"${root[@]}" apt-get update -q
		"${root[@]}" apt-get install -qy --no-install-recommends "${need[@]}"
	fi
	go version
	redis-server --version
	printf 'node %s, npm %s\n' "$(node --version)" "$(npm --version)"
}

# free_port prints a port of 127.0.0.1 that nobody listens on.
free_port() {
	local port
	while true; do
		port=$((20000 + RANDOM % 10000))
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
	done
}

# wait_for SECONDS COMMAND... tries the command until it succeeds.
wait_for() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		if ((SECONDS >= end)); then
			echo "gave up waiting for: $*"
			return 1
		fi
		sleep 0.1
	done
}

# start_redis starts a server for the tests; run ends it. It sets redis, the
# process, and redis_port.
start_redis() {
	mkdir "$work/redis"
	redis_port=$(free_port)
	redis-server --bind 127.0.0.1 --port "$redis_port" --dir "$work/redis" \
		--save '' --appendonly no >"$work/redis/log" 2>&1 </dev/null &
	redis=$!
	if ! wait_for 10 answers_ping "$redis_port"; then
		cat "$work/redis/log"
		exit 1
	fi
}

answers_ping() (
	local line
	exec 3<>"/dev/tcp/127.0.0.1/$1"
	printf 'PING\r\n' >&3
	read -r -t 2 line <&3
	[[ $line == +PONG* ]]
)
