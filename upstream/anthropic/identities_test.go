package anthropic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func client(agent, lang string) http.Header {
	h := http.Header{"X-Stainless-Lang": {lang}}
	if agent != "" {
		h.Set("User-Agent", agent)
	}
	return h
}

// sharedStore is an IdentityStore of several nodes.
type sharedStore struct {
	mu      sync.Mutex
	kept    map[string]string
	writes  int
	down    bool
	silent  time.Duration // how long an answer takes
	meddler func()        // runs once, between a read and its write
}

func (s *sharedStore) Change(ctx context.Context, account string, f func([]byte) []byte) error {
	if s.silent > 0 {
		select {
		case <-time.After(s.silent):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		s.mu.Lock()
		old, there := s.kept[account]
		down, meddler := s.down, s.meddler
		s.meddler = nil
		s.mu.Unlock()
		if down {
			return errors.New("down")
		}
		var text []byte
		if there {
			text = []byte(old)
		}
		next := string(f(text))
		if meddler != nil {
			meddler()
		}
		s.mu.Lock()
		if s.kept[account] == old {
			if next != old {
				s.kept[account] = next
				s.writes++
			}
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
	}
}

func (s *sharedStore) set(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

func (s *sharedStore) agent(t *testing.T, account string) string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var kept Identity
	if err := json.Unmarshal([]byte(s.kept[account]), &kept); err != nil {
		t.Errorf("kept of %s: %q", account, s.kept[account])
	}
	return kept.UserAgent
}

func TestIdentityIsThatOfTheFirstClient(t *testing.T) {
	var ids Identities
	first := ids.See("a", "uuid", client("claude-cli/2.1.9 (external)", "js"))
	if len(first.ClientID) != 64 || first.UserAgent != "claude-cli/2.1.9 (external)" || first.AccountUUID != "uuid" {
		t.Errorf("first: %+v", first)
	}
	for _, step := range []struct{ agent, want, lang string }{
		{"claude-cli/2.1.8 (external)", "claude-cli/2.1.9 (external)", "js"},
		{"Anthropic/Go 9.9.9", "claude-cli/2.1.9 (external)", "js"},
		{"", "claude-cli/2.1.9 (external)", "js"},
		{"claude-cli/2.1.10 (other)", "claude-cli/2.1.10 (other)", "go"},
		{"claude-cli/3", "claude-cli/3", "go"},
	} {
		got := ids.See("a", "uuid", client(step.agent, "go"))
		if got.UserAgent != step.want || got.Stainless["X-Stainless-Lang"] != step.lang || got.ClientID != first.ClientID {
			t.Errorf("after %q: %+v", step.agent, got)
		}
	}
	if other := ids.See("b", "", client("x/1", "go")); other.ClientID == first.ClientID {
		t.Error("two accounts share a client id")
	}
}

// nodes are Identities over one store, which run until the test ends.
func nodes(t *testing.T, store IdentityStore, n int) []*Identities {
	t.Helper()
	all := make([]*Identities, n)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	for i := range all {
		all[i] = new(Identities)
		all[i].Keep(store)
		running.Go(func() { all[i].Run(ctx) })
	}
	return all
}

func TestNodesShareIdentities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &sharedStore{kept: map[string]string{"broken": "{", "empty": "{}"}}
		all := nodes(t, store, 2)
		a, b := all[0], all[1]
		first := a.See("x", "", client("claude-cli/2", "js"))
		if got := b.See("x", "", client("claude-cli/1", "go")); got.ClientID != first.ClientID || got.UserAgent != "claude-cli/2" || got.Stainless["X-Stainless-Lang"] != "js" {
			t.Errorf("the second node shows %+v, the first %+v", got, first)
		}
		if got := b.See("x", "", client("claude-cli/3", "go")); got.UserAgent != "claude-cli/3" || got.ClientID != first.ClientID {
			t.Errorf("a newer client: %+v", got)
		}
		time.Sleep(time.Minute)
		if got := a.See("x", "", client("claude-cli/1", "js")); got.UserAgent != "claude-cli/3" {
			t.Errorf("a minute later the first node shows %+v", got)
		}
		for _, account := range []string{"broken", "empty"} {
			if id := a.See(account, "", client("c/1", "js")).ClientID; len(id) != 64 || b.See(account, "", client("c/1", "js")).ClientID != id {
				t.Errorf("%s: client id %q", account, id)
			}
		}
		writes := store.writes
		time.Sleep(10 * time.Minute)
		if store.writes != writes {
			t.Errorf("%d writes while nothing changed", store.writes-writes)
		}
	})
}

func TestStoredIdentityNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &sharedStore{kept: map[string]string{}}
		all := nodes(t, store, 2)
		all[0].See("x", "", client("claude-cli/1", "js"))
		all[1].See("x", "", client("claude-cli/1", "js"))
		// The second node's write of version 2 is overtaken by version 3.
		store.meddler = func() {
			store.Change(t.Context(), "x", func(old []byte) []byte {
				return []byte(strings.Replace(string(old), "claude-cli/1", "claude-cli/3", 1))
			})
		}
		all[1].See("x", "", client("claude-cli/2", "js"))
		time.Sleep(time.Second)
		if got := store.agent(t, "x"); got != "claude-cli/3" {
			t.Errorf("the store went back to %s", got)
		}
		if got := all[1].See("x", "", client("claude-cli/2", "js")).UserAgent; got != "claude-cli/3" {
			t.Errorf("the node shows %s", got)
		}
	})
}

func TestFirstIdentityIsMadeOnce(t *testing.T) {
	store := &sharedStore{kept: map[string]string{}, silent: 10 * time.Millisecond}
	var running sync.WaitGroup
	ids := make([]string, 40)
	all := nodes(t, store, 4)
	for i := range ids {
		running.Go(func() { ids[i] = all[i%4].See("x", "", client("claude-cli/1", "js")).ClientID })
	}
	running.Wait()
	for i, id := range ids {
		if id != ids[0] {
			t.Errorf("request %d shows another client", i)
		}
	}
}

func TestIdentitiesOutliveAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &sharedStore{kept: map[string]string{"x": `{"client_id":"shared","user_agent":"claude-cli/2"}`}, down: true}
		node := nodes(t, store, 1)[0]
		alone := node.See("x", "", client("claude-cli/3", "js"))
		if len(alone.ClientID) != 64 {
			t.Errorf("without the store: %+v", alone)
		}
		new := node.See("y", "", client("claude-cli/3", "js"))
		store.set(false)
		time.Sleep(time.Minute)
		if got := node.See("x", "", client("", "js")); got.ClientID != "shared" || got.UserAgent != "claude-cli/3" {
			t.Errorf("with the store again: %+v", got)
		}
		if got := node.See("y", "", client("", "js")); got.ClientID != new.ClientID || store.agent(t, "y") != "claude-cli/3" {
			t.Errorf("made without the store: %+v", got)
		}
	})
}

func TestSilentStoreHoldsUpOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &sharedStore{kept: map[string]string{}, silent: time.Hour}
		node := nodes(t, store, 1)[0]
		began := time.Now()
		for i := range 10 {
			node.See("x", "", client(fmt.Sprintf("claude-cli/%d", i), "js"))
		}
		if took := time.Since(began); took > exchangeTimeout {
			t.Errorf("it took %s", took)
		}
	})
}

func TestWhatIsLeftIsStoredAtTheEnd(t *testing.T) {
	store := &sharedStore{kept: map[string]string{}}
	var ids Identities
	ids.Keep(store)
	ids.See("x", "", client("claude-cli/1", "js"))
	ids.See("x", "", client("claude-cli/2", "js"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ids.Run(ctx)
	if got := store.agent(t, "x"); got != "claude-cli/2" {
		t.Errorf("stored: %s", got)
	}
}
