// Package caddymodule is what Caddy sees: the handler `sub2api`, the runtimes that its
// configs share, the routes of the admin endpoint, and the commands.
package caddymodule

import (
	"context"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sub2api/caddy-sub2api/caddymodule/config"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
)

func init() { caddy.RegisterModule(Handler{}) }

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sub2api",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Handler stands between people's tools and a pool of upstream accounts: it
// authenticates a gateway key, picks the right account, prepares the request,
// relays the answer as it streams, counts what was used and bills it exactly
// once. Paths of the providers' APIs that it does not serve are answered with
// 404; requests to all other paths go to the next handler, untouched.
//
// Handlers that name the same store share one runtime: slots, session bindings
// and the ledger.
//
// Secrets (credentials and gateway keys) may be `{env.NAME}` or
// `{file./absolute/path}`; these are resolved when the config is loaded, so
// that the config itself never holds them.
type Handler struct {
	config.Config

	gateway *gateway.Gateway
	// pooled is the key of the handler's reference to its runtime, "" before it
	// has one.
	pooled string
	// site is what the handler is among those of its config, which events stands
	// for; nil before it is one of them.
	site   *config.Site
	events *caddyevents.App
}

// Provision reads the config and joins the runtime of its store. The store
// itself is opened when the config has started, or by the first request:
// `caddy validate` provisions in a second process.
func (h *Handler) Provision(ctx caddy.Context) error {
	settings, err := h.Build()
	if err != nil {
		return err
	}
	if err := settings.Storage.CheckKey(ctx, settings.EncryptionKey); err != nil {
		return fmt.Errorf("store %s: %w", settings.Storage, err)
	}
	app, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("loading the events app: %w", err)
	}
	events := app.(*caddyevents.App)
	if err := h.joinSites(ctx, events, settings.Storage.Key()); err != nil {
		return fmt.Errorf("store %s: %w", settings.Storage, err)
	}
	runtime, err := joinRuntime(settings.Storage)
	if err != nil {
		return err
	}
	h.pooled = runtime.Key
	if err := gateway.RegisterMetrics(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	if h.gateway, err = gateway.New(settings, runtime, ctx.Slogger()); err != nil {
		return err
	}
	// Until the config runs, it may still be rolled back.
	return events.On("started", starter{h.gateway})
}

// starter is what is told that a config has started. Caddy logs the exported
// fields of such a handler at debug level; this one has none, where Handler's
// would show literal secrets.
type starter struct{ gateway *gateway.Gateway }

// Handle implements caddyevents.Handler: the config has started.
func (s starter) Handle(ctx context.Context, _ caddy.Event) error {
	s.gateway.Begin(context.WithoutCancel(ctx))
	return nil
}

// Cleanup gives up the handler's share of the runtime. Streams in flight keep
// theirs until they end.
func (h *Handler) Cleanup() error {
	if h.site != nil {
		h.leaveSites()
	}
	if h.pooled == "" {
		return nil
	}
	if h.gateway != nil {
		h.gateway.GiveUp()
	}
	return leaveRuntime(h.pooled)
}

// ServeHTTP answers the requests whose paths are the gateway's, and hands all
// others on.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if h.gateway.Serve(w, r) {
		return nil
	}
	return next.ServeHTTP(w, r)
}

// Interface guards
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyevents.Handler         = starter{}
)
