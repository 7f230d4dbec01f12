# shellcheck shell=bash
# The built binary, as people use it. Sourced by run, after servers.sh.

# own_caddy DIRECTORY COMMAND... becomes the command, with Caddy's files in the
# directory and its admin endpoint out of everyone's way. For subshells.
own_caddy() {
	local dir=$1
	shift
	exec env TMPDIR="$dir/tmp" XDG_DATA_HOME="$dir/data" XDG_CONFIG_HOME="$dir/config" \
		CADDY_ADMIN="127.0.0.1:$(free_port)" "$@"
}

# stop_cleanly PROCESS fails unless it ends with status 0 after SIGTERM, soon.
stop_cleanly() {
	kill -TERM "$1"
	wait_for 15 gone "$1"
	wait "$1"
}

gone() { ! kill -0 "$1"; }

# not_found_at URL fails unless paths that nobody serves are answered with 404.
not_found_at() {
	local path status
	for path in / /api/hello /v1/messages/batches /v1/chat/completions; do
		status=$(curl -sS -o "$work/not_found" -w '%{http_code}' "$1$path")
		if [[ $status != 404 ]]; then
			echo "$path was answered with $status: $(<"$work/not_found")"
			return 1
		fi
	done
}

try_sample() {
	local dir="$work/sample" port
	mkdir -p "$dir/tmp"
	"$work/caddy" fmt --diff Caddyfile.example >/dev/null
	export ANTHROPIC_API_KEY=sk-upstream SUB2API_KEY=sk-gateway
	(own_caddy "$dir" "$work/caddy" validate --config Caddyfile.example)
	"$work/caddy" adapt --config Caddyfile.example >"$dir/adapted.json"
	grep -q '{env.ANTHROPIC_API_KEY}' "$dir/adapted.json"

	port=$(free_port)
	sed "s/^:8080 /:$port /" Caddyfile.example >"$dir/Caddyfile"
	own_caddy "$dir" "$work/caddy" run --config "$dir/Caddyfile" >"$dir/log" 2>&1 &
	caddy=$!
	trap 'kill "$caddy" 2>/dev/null || true' EXIT
	if ! wait_for 20 curl -fsS -H 'x-api-key: sk-gateway' "http://127.0.0.1:$port/v1/usage"; then
		cat "$dir/log"
		return 1
	fi
	curl -fsS -H 'x-api-key: sk-gateway' "http://127.0.0.1:$port/v1/models?limit=1&key=sk-gateway"
	echo
	not_found_at "http://127.0.0.1:$port"
	stop_cleanly "$caddy"
	grep -q '"/v1/models?limit=1"' "$dir/log"
	if grep -rE 'sk-(upstream|gateway)' "$dir"; then
		echo 'a secret was written to a log or a file'
		return 1
	fi
}

try_demo() {
	local dir="$work/demo" port line
	mkdir -p "$dir/tmp"
	port=$(free_port)
	own_caddy "$dir" "$work/caddy" sub2api demo --listen "127.0.0.1:$port" >"$dir/log" 2>&1 &
	demo=$!
	trap 'kill "$demo" 2>/dev/null || true' EXIT
	if ! wait_for 20 grep -q '^curl ' "$dir/log"; then
		cat "$dir/log"
		return 1
	fi
	line=$(grep '^curl ' "$dir/log")
	bash -c "$line -sS --max-time 30" >"$dir/answer"
	tail -n 6 "$dir/answer"
	grep -q '^event: message_stop$' "$dir/answer"
	not_found_at "http://127.0.0.1:$port"
	stop_cleanly "$demo"
	if [[ -n $(ls -A "$dir/tmp") ]]; then
		echo "the demo left files behind: $(ls -A "$dir/tmp")"
		return 1
	fi
}
