// Command caddy is Caddy with its standard modules and sub2api: what
// `xcaddy build --with github.com/sub2api/caddy-sub2api` makes.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/sub2api/caddy-sub2api"
)

func main() { caddycmd.Main() }
