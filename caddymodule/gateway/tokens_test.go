package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

func TestAccountsThatAreLookedAfter(t *testing.T) {
	memory := memstate.New()
	defer memory.Close()
	rt := &Runtime{State: memory}
	with := func(names ...string) *Gateway {
		g := &Gateway{Config: &Config{}}
		for _, name := range names {
			g.Config.Accounts = append(g.Config.Accounts, &upstream.Account{Name: name})
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
	if _, err := memory.Change(context.Background(), scheduler.AccountPlace("b"), func(st *scheduler.AccountState) { st.Error = "refused" }); err != nil {
		t.Fatal(err)
	}
	want("c")
	rt.unwatch(new)
	want()
}

func TestNodesShareTokensAndIdentities(t *testing.T) {
	for name, named := range map[string]store.Config{
		"embedded": store.Embedded{Dir: t.TempDir(), Keeping: store.Keeping{Zone: time.UTC}},
		"redis":    redisAt(t, miniredis.RunT(t).Addr()),
	} {
		t.Run(name, func(t *testing.T) {
			var identities []string
			for range 2 { // a second node, or the next process
				s := store.New(named, slog.New(slog.DiscardHandler))
				if _, err := s.Open(t.Context(), bytes.Repeat([]byte{1}, 32)); err != nil {
					t.Fatal(err)
				}
				var ids anthropic.Identities
				ids.Keep(identityStore{s, slog.New(slog.DiscardHandler)})
				identities = append(identities, ids.See("max", "", http.Header{"User-Agent": {"claude-cli/2"}}).ClientID)
				tokens := tokenStore{s}
				if len(identities) == 1 {
					if err := tokens.Save(t.Context(), "max.1", []byte("fresh")); err != nil {
						t.Fatal(err)
					}
				} else if got, err := tokens.Load(t.Context(), "max.1"); string(got) != "fresh" || err != nil {
					t.Errorf("the token is %q, %v", got, err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if identities[0] != identities[1] {
				t.Error("an account shows two clients")
			}
		})
	}
}

func TestTokensOfAStoreThatIsNotOpen(t *testing.T) {
	tokens := tokenStore{&store.Store{}}
	if _, err := tokens.Load(t.Context(), "max.1"); !errors.Is(err, errTokenStore) || !errors.Is(err, store.ErrNotOpen) {
		t.Errorf("load: %v", err)
	}
	if err := tokens.Save(t.Context(), "max.1", nil); !errors.Is(err, errTokenStore) {
		t.Errorf("save: %v", err)
	}
}
