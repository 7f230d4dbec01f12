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

# free_port prints a port of 127.0.0.1 that nobody listens on, nor on the one
# 10,000 above, on which nodes of a Cluster talk to each other. Both are below
# those that Linux gives to outgoing connections.
free_port() {
	local port
	while true; do
		port=$((10000 + RANDOM % 10000))
		if ! listens "$port" && ! listens $((port + 10000)); then
			echo "$port"
			return
		fi
	done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

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

# start_server NAME PORT OPTION... starts a server for the tests, which keeps
# nothing. It adds the process to servers, which run ends.
start_server() {
	local dir="$work/$1" port=$2
	shift 2
	mkdir "$dir"
	redis-server --bind 127.0.0.1 --port "$port" --dir "$dir" \
		--save '' --appendonly no "$@" >"$dir/log" 2>&1 </dev/null &
	servers+=("$!")
	if ! wait_for 10 answers_ping "$port"; then
		cat "$dir/log"
		exit 1
	fi
}

# start_redis starts a single server and sets redis_url.
start_redis() {
	local port
	port=$(free_port)
	start_server redis "$port"
	redis_url="redis://127.0.0.1:$port"
}

# start_cluster starts a Cluster of three masters and sets cluster_addresses, with
# commas between them.
start_cluster() {
	local number port addresses=()
	for number in 1 2 3; do
		port=$(free_port)
		start_server "cluster-$number" "$port" --cluster-enabled yes --cluster-node-timeout 5000
		addresses+=("127.0.0.1:$port")
	done
	if ! redis-cli --cluster create "${addresses[@]}" --cluster-yes >"$work/cluster.log" 2>&1 </dev/null ||
		! wait_for 20 cluster_works "${addresses[@]}"; then
		cat "$work"/cluster.log "$work"/cluster-*/log
		exit 1
	fi
	cluster_addresses=$(IFS=, && echo "${addresses[*]}")
}

# cluster_works ADDRESS... asks every node.
cluster_works() {
	local address
	for address in "$@"; do
		redis-cli -h "${address%:*}" -p "${address#*:}" cluster info | grep -q '^cluster_state:ok' || return 1
	done
}

answers_ping() (
	local line
	exec 3<>"/dev/tcp/127.0.0.1/$1"
	printf 'PING\r\n' >&3
	read -r -t 2 line <&3
	[[ $line == +PONG* ]]
)
