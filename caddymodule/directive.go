package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sub2api/caddy-sub2api/caddymodule/config"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("sub2api", parseCaddyfile)
	httpcaddyfile.RegisterDirectiveOrder("sub2api", httpcaddyfile.Before, "reverse_proxy")
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	const sitesBefore = "sub2api sites"
	before, _ := h.State[sitesBefore].([]*config.Site)
	handler := new(Handler)
	written, err := handler.UnmarshalSite(h.Dispenser, before)
	if err != nil {
		return nil, err
	}
	h.State[sitesBefore] = append(before, written)
	return handler, nil
}
