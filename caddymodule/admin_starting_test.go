package caddymodule

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin/admintest"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
)

// The admin endpoint listens before the config's handlers are made, and these have
// a store before it is open.
func TestTheAdminAPIOfAConfigThatIsStarting(t *testing.T) {
	started := admintest.Runtime(t, store.Embedded{Dir: "/store"}, admintest.NewLedger(), admintest.Config())
	joining, _ := admintest.Gateway(t, store.Embedded{Dir: "/other"}, admintest.NewLedger(), admintest.Config())
	running, stop := context.WithCancel(t.Context())
	defer stop()
	failed, fail := context.WithCancel(t.Context())
	fail()
	for name, test := range map[string]struct {
		pool   []*gateway.Runtime
		config context.Context
		query  string
		want   int
	}{
		"no handler yet":                       {nil, running, "", 503},
		"no handler yet, a store is named":     {nil, running, "?store=/store", 503},
		"a handler that has not started":       {[]*gateway.Runtime{joining}, running, "", 503},
		"one started":                          {[]*gateway.Runtime{started}, nil, "", 200},
		"one started, another not":             {[]*gateway.Runtime{started, joining}, nil, "", 503},
		"the started one is named":             {[]*gateway.Runtime{started, joining}, nil, "?store=embedded+/store", 200},
		"the other one is named":               {[]*gateway.Runtime{started, joining}, nil, "?store=/other", 503},
		"a config that failed":                 {nil, failed, "", 404},
		"a config without a handler":           {nil, nil, "", 404},
		"a store that a started config has no": {[]*gateway.Runtime{started}, nil, "?store=/other", 400},
	} {
		api := &admin.API{Runtimes: func() []*gateway.Runtime { return append([]*gateway.Runtime(nil), test.pool...) }, Starting: (&adminModule{config: test.config}).starting}
		status, body, header := admintest.Call(t, api, "GET", "/sub2api/users"+test.query, "")
		if status != test.want {
			t.Errorf("%s: status %d, want %d: %s", name, status, test.want, body)
		}
		if again := header.Get("Retry-After"); (status == http.StatusServiceUnavailable) != (again == "1") {
			t.Errorf("%s: status %d, Retry-After %q", name, status, again)
		}
		if status == http.StatusServiceUnavailable && !strings.Contains(body, "is being started") {
			t.Errorf("%s: %s", name, body)
		}
	}
}
