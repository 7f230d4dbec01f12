package caddymodule

import (
	"context"
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
)

func init() { caddy.RegisterModule(adminModule{}) }

// adminModule is the part of Caddy's admin endpoint where an operator looks after
// accounts, users, keys and money.
type adminModule struct {
	// config is the context of the config that the endpoint belongs to; nil = a started
	// one.
	config context.Context
}

// CaddyModule returns the Caddy module information.
func (adminModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.sub2api",
		New: func() caddy.Module { return new(adminModule) },
	}
}

// Provision implements caddy.Provisioner. The endpoint listens before the config's
// handlers are made.
func (m *adminModule) Provision(ctx caddy.Context) error {
	m.config = ctx.Context
	return nil
}

// starting reports whether the endpoint's config is not in force yet.
func (m *adminModule) starting() bool {
	return m.config != nil && m.config.Err() == nil && caddy.ActiveContext().Context != m.config
}

// Routes implements caddy.AdminRouter.
func (m *adminModule) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: admin.Prefix, Handler: caddy.AdminHandlerFunc(m.serve)}}
}

func (m *adminModule) serve(w http.ResponseWriter, r *http.Request) error {
	api := &admin.API{Runtimes: pooledRuntimes, Starting: m.starting}
	err := api.Serve(w, r)
	if refusal, ok := errors.AsType[*admin.Error](err); ok {
		return caddy.APIError{HTTPStatus: refusal.Status, Err: refusal.Err}
	}
	return err
}

// pooledRuntimes are those of the configs in force, and of one that is starting.
func pooledRuntimes() (all []*gateway.Runtime) {
	runtimes.Range(func(_, value any) bool {
		all = append(all, value.(*gateway.Runtime))
		return true
	})
	return all
}

// Interface guards
var (
	_ caddy.Module      = (*adminModule)(nil)
	_ caddy.Provisioner = (*adminModule)(nil)
	_ caddy.AdminRouter = (*adminModule)(nil)
)
