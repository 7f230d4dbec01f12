// Package sub2api is the plugin as xcaddy finds it: `xcaddy build --with
// github.com/sub2api/caddy-sub2api`. It registers the Caddy modules of the package
// caddymodule.
package sub2api

import _ "github.com/sub2api/caddy-sub2api/caddymodule"
