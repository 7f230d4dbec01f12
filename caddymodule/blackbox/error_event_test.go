package blackbox_test

import (
	"bytes"
	"context"
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func init() {
	caddy.RegisterModule(new(leaver))
	httpcaddyfile.RegisterHandlerDirective("leave_upon_error", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(leaver), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("leave_upon_error", httpcaddyfile.Before, "encode")
}

// leaver is the quickest of clients: it is gone when an error event is out,
// before the gateway has done anything else.
type leaver struct{}

func (*leaver) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.leave_upon_error", New: func() caddy.Module { return new(leaver) }}
}

func (*leaver) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	ctx, leave := context.WithCancel(r.Context())
	defer leave()
	return next.ServeHTTP(leavingWriter{&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, leave}, r.WithContext(ctx))
}

type leavingWriter struct {
	*caddyhttp.ResponseWriterWrapper
	leave func()
}

func (w leavingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriterWrapper.Write(p)
	if bytes.Contains(p, []byte("event: error")) {
		w.leave()
	}
	return n, err
}

// SDKs hang up as soon as they have read an error event. The answer was over by
// then, and so nobody has left it.
func TestClientThatLeavesUponAnErrorEvent(t *testing.T) {
	for name, fault := range map[string]simulator.Fault{
		"upstream's own": {Kind: simulator.ErrorEvent, After: 5, ErrorType: "api_error"},
		"the gateway's":  {Kind: simulator.Cut, After: 5},
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, simulator.Config{}, mainAccount+alice, "leave_upon_error")
			g.sim.Queue("sk-upstream-main", simulator.Reply{Fault: fault})
			g.say("claude-sonnet-5-5", true)
			g.wantOneRecord(func(r *billing.Record) {
				if r.Status != 200 || !r.Estimated || r.Billing != billing.PaidFromBalance {
					t.Errorf("record %+v", r)
				}
			})
		})
	}
}
