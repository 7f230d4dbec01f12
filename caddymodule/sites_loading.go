package caddymodule

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sub2api/caddy-sub2api/caddymodule/config"
)

// loading are the sites of each config that is being loaded or in force, by the
// events app, of which a config has one.
var loading = struct {
	mu    sync.Mutex
	sites map[*caddyevents.App][]*config.Site
}{sites: map[*caddyevents.App][]*config.Site{}}

// joinSites counts the handler among the sites of its config, unless it contradicts
// one of them. Configs may contradict each other: a reload is how what they say
// changes.
func (h *Handler) joinSites(ctx caddy.Context, app *caddyevents.App, store string) error {
	loading.mu.Lock()
	defer loading.mu.Unlock()
	server := "the config"
	if s, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server = fmt.Sprintf("server %s (%s)", s.Name(), strings.Join(s.Listen, " "))
	}
	number := 1
	for _, other := range loading.sites[app] {
		if other.Server == server {
			number++
		}
	}
	place := func(path string) string {
		return fmt.Sprintf("%s of sub2api handler %d in %s", path, number, server)
	}
	joined := h.NewSite(store, server, place)
	for _, other := range loading.sites[app] {
		if err := joined.Contradicts(other); err != nil {
			return err
		}
	}
	h.events, h.site = app, joined
	loading.sites[app] = append(loading.sites[app], joined)
	return nil
}

func (h *Handler) leaveSites() {
	loading.mu.Lock()
	defer loading.mu.Unlock()
	left := slices.DeleteFunc(loading.sites[h.events], func(s *config.Site) bool { return s == h.site })
	if len(left) == 0 {
		delete(loading.sites, h.events)
		return
	}
	loading.sites[h.events] = left
}
