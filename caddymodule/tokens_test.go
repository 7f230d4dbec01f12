package caddymodule

import (
	"context"
	"slices"
	"testing"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
	"github.com/sub2api/caddy-sub2api/upstream"
)

func TestAccountsThatAreLookedAfter(t *testing.T) {
	memory := memstate.New()
	defer memory.Close()
	rt := &runtime{state: memory}
	with := func(names ...string) *gateway {
		g := &gateway{settings: &settings{}}
		for _, name := range names {
			g.accounts = append(g.accounts, &upstream.Account{Name: name})
		}
		return g
	}
	want := func(names ...string) {
		t.Helper()
		var got []string
		for _, a := range rt.accounts() {
			got = append(got, a.Name)
		}
		if !slices.Equal(got, names) {
			t.Errorf("looks after %q, want %q", got, names)
		}
	}
	want()
	old, new, never := with("a", "b"), with("b", "c"), with("z")
	rt.watch(old)
	rt.watch(old)
	want("a", "b")
	rt.watch(new) // a reload: the new config starts before the old one is cleaned up
	rt.unwatch(old)
	rt.unwatch(never) // a config that was rolled back
	want("b", "c")
	if _, err := memory.Change(context.Background(), scheduler.AccountPlace("b"), func(st *scheduler.Standing) { st.Error = "refused" }); err != nil {
		t.Fatal(err)
	}
	want("c")
	rt.unwatch(new)
	want()
}
