# check_arrows compares the direct imports of every package with arrows.txt, and what the
# tests of the packages that need no Caddy are linked with.
check_arrows() {
	local module status=0
	module=$(go list -m)
	go list -f '{{.ImportPath}}{{range .Imports}} {{.}}{{end}}' ./... |
		awk -v module="$module" '
			function short(path) {
				if (path == module) return "."
				if (index(path, module "/") == 1) return substr(path, length(module) + 2)
				if (index(path, "github.com/caddyserver/") == 1) return "caddy"
				if (index(path, "go.uber.org/zap") == 1) return "zap"
				return ""
			}
			NR == FNR {
				sub(/#.*/, "")
				if ($1 == "leaves") for (i = 2; i <= NF; i++) leaf[$i] = 1
				else if (NF) { known[$1] = 1; for (i = 2; i <= NF; i++) arrow[$1, $i] = 1 }
				next
			}
			{
				from = short($1)
				if (!(from in known) && NF > 1) { print from ": has no line in .ci/arrows.txt"; bad = 1 }
				for (i = 2; i <= NF; i++) {
					to = short($i)
					if (to == "" || to in leaf || (from, to) in arrow) continue
					if ((from, "*") in arrow && to ~ /^(caddymodule|scheduler|upstream|billing)(\/|$)/) continue
					print from " imports " to ", which is no arrow of .ci/arrows.txt"
					bad = 1
				}
			}
			END { exit bad }
		' .ci/arrows.txt - || status=1
	local linked
	linked=$(go list -deps -test ./caddymodule/gateway ./caddymodule/store ./scheduler/... ./upstream/... ./billing/... | grep '^github.com/caddyserver/' | sort -u || true)
	if [[ -n $linked ]]; then
		printf 'tests of packages that need no Caddy are linked with it:\n%s\n' "$linked"
		status=1
	fi
	return "$status"
}
