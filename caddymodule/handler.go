// Package caddymodule is the door: the Caddy handler `sub2api`, its config, and
// the one room that puts scheduler, upstream and billing together.
package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

func init() { caddy.RegisterModule(Handler{}) }

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sub2api",
		New: func() caddy.Module { return new(Handler) },
	}
}

// live is what a handler has beyond its config, once it is provisioned.
type live struct {
	gateway *gateway
	// pooled is the key of the handler's reference to its runtime, "" before it
	// has one.
	pooled string
	// site is what the handler is among those of its config, which events stands
	// for; nil before it is one of them.
	site   *site
	events *caddyevents.App
}

// gateway is one config at work. It never changes; requests in flight keep the
// one that they began with.
type gateway struct {
	*settings
	scheduler *scheduler.Scheduler
	runtime   *runtime
	start     start
	allow     anthropic.HeaderList
	logger    *slog.Logger
}

// Provision reads the config and joins the runtime of its store. The store
// itself is opened when the config has started, or by the first request:
// `caddy validate` provisions in a second process.
func (h *Handler) Provision(ctx caddy.Context) error {
	settings, err := h.settings()
	if err != nil {
		return err
	}
	if err := settings.storage.CheckKey(ctx, settings.encryptionKey); err != nil {
		return fmt.Errorf("store %s: %w", settings.storage, err)
	}
	app, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("loading the events app: %w", err)
	}
	events := app.(*caddyevents.App)
	if err := h.joinSites(ctx, events, settings.storage.Key()); err != nil {
		return fmt.Errorf("store %s: %w", settings.storage, err)
	}
	runtime, err := joinRuntime(settings.storage)
	if err != nil {
		return err
	}
	h.pooled = runtime.key
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	logger := ctx.Slogger()
	sched, err := scheduler.New(settings.scheduler, runtime.leases, logger)
	if err != nil {
		return fmt.Errorf("scheduling: %w", err)
	}
	h.gateway = &gateway{
		settings:  settings,
		scheduler: sched,
		runtime:   runtime,
		logger:    logger,
	}
	for _, name := range settings.allowHeader {
		h.gateway.allow = append(h.gateway.allow, http.CanonicalHeaderKey(name))
	}
	// Until the config runs, it may still be rolled back.
	return events.On("started", starter{h.gateway})
}

// starter is what is told that a config has started. Caddy logs the exported
// fields of such a handler at debug level; this one has none, where Handler's
// would show literal secrets.
type starter struct{ gateway *gateway }

// Handle implements caddyevents.Handler: the config has started.
func (s starter) Handle(ctx context.Context, _ caddy.Event) error {
	s.gateway.runtime.logs.set(s.gateway.logger)
	s.gateway.runtime.store.Take(s.gateway.storage)
	if _, err := s.gateway.ledger(context.WithoutCancel(ctx)); err != nil && !errors.Is(err, scheduler.ErrUnavailable) {
		s.gateway.logger.Error("the store can't be opened; requests are refused until it can", "error", err)
	}
	s.gateway.runtime.watch(s.gateway)
	s.gateway.runtime.workInBackground()
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
		h.gateway.runtime.unwatch(h.gateway)
		h.gateway.start.giveUp()
	}
	return leaveRuntime(h.pooled)
}

// ServeHTTP answers the requests whose paths are the gateway's, and hands all
// others on.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	path := cleanPath(r.URL.Path)
	apiPath, force := splitForce(path)
	found := findEndpoint(r.Method, apiPath)
	switch {
	case found != nil:
		h.serve(w, r, found, apiPath, force)
		return nil
	case isAPIPath(path) && !h.gateway.passUnserved:
		answerUnserved(w, r, path)
		return nil
	}
	return next.ServeHTTP(w, r)
}

// serve answers a request to an endpoint. path is without forcePrefix, and force
// is what that forces.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, e *endpoint, path string, force upstream.Platform) {
	if !h.gateway.runtime.enter() {
		(&apiError{
			status: http.StatusServiceUnavailable, kind: overloadedError, retryAfter: shutdownRetryAfter,
			message: "the gateway is shutting down; try again",
		}).write(w, newRequestID())
		return
	}
	defer h.gateway.runtime.leave()
	x := newExchange(h.gateway, w, r, path, force)
	defer x.end()
	if r.Method != e.method {
		x.fail(&apiError{
			status: http.StatusMethodNotAllowed, kind: invalidRequestError, final: true,
			message: "method not allowed; use " + e.method,
			header:  http.Header{"Allow": {e.method}},
		})
		return
	}
	if x.authenticate() {
		e.serve(x)
	}
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
