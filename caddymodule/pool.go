package caddymodule

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
)

// runtimes are those of the stores that handlers refer to, by Config.Key.
var runtimes = caddy.NewUsagePool()

// joinRuntime takes a reference to the runtime of a store, and makes it if
// there is none. It opens nothing.
func joinRuntime(named store.Config) (*gateway.Runtime, error) {
	key := named.Key()
	value, _, err := runtimes.LoadOrNew(key, func() (caddy.Destructor, error) { return gateway.AdoptRuntime(key, named, caddyHooks), nil })
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", named, err)
	}
	rt := value.(*gateway.Runtime)
	if err := named.Clash(rt.Storage); err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", named, err), leaveRuntime(key))
	}
	return rt, nil
}

func leaveRuntime(key string) error {
	_, err := runtimes.Delete(key)
	return err
}

// caddyHooks are what the gateway asks of Caddy.
var caddyHooks = gateway.Hooks{
	ClientAddress: func(r *http.Request) string {
		address, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
		return address
	},
	IsTooLarge: func(err error) bool {
		var limit caddyhttp.HandlerError // of request_body
		return errors.As(err, &limit) && limit.StatusCode == http.StatusRequestEntityTooLarge
	},
	Exiting: caddy.Exiting,
}
