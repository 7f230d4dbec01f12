package admin_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin/admintest"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
)

func TestOddNamesAreRefused(t *testing.T) {
	rt := admintest.Runtime(t, store.Embedded{Dir: "/store"}, admintest.NewLedger(), admintest.Config())
	api := &admin.API{Runtimes: func() []*gateway.Runtime { return []*gateway.Runtime{rt} }}
	status, body, _ := admintest.Call(t, api, "POST", "/sub2api/users", "{\"name\":\"bob\u200b\"}")
	if status != http.StatusBadRequest || !strings.Contains(body, `name: "bob\u200b" can't be used: it holds U+200B`) {
		t.Errorf("%d %s", status, body)
	}
}

// A store may hold users whose names could be made before.
func TestUsersWithOddNamesCanBeSeenAndRemoved(t *testing.T) {
	for _, name := range []string{"zoe\u0301", "\u00e9\u0301", "al\u200bice", "\uff41lice", "x\u0301\u0e34"} {
		ledger := admintest.NewLedger()
		rt := admintest.Runtime(t, store.Embedded{Dir: "/store"}, ledger, admintest.Config())
		api := &admin.API{Runtimes: func() []*gateway.Runtime { return []*gateway.Runtime{rt} }}
		if err := ledger.AddUser(t.Context(), billing.User{Name: name}); err != nil {
			t.Fatal(err)
		}
		path := "/sub2api/users/" + url.PathEscape(name)
		for _, step := range []struct{ method, path, body string }{
			{"GET", "/sub2api/users", ""},
			{"GET", path, ""},
			{"PATCH", path, `{"disabled":true}`},
			{"POST", path + "/credit", `{"amount_usd":"-1"}`},
			{"GET", path + "/keys", ""},
			{"DELETE", path, ""},
		} {
			if status, body, _ := admintest.Call(t, api, step.method, step.path, step.body); status != http.StatusOK {
				t.Errorf("%+q: %s %s: %d %s", name, step.method, step.path, status, body)
			}
		}
		if ledger.UserMap[name] != nil {
			t.Errorf("%+q is there still", name)
		}
	}
}
