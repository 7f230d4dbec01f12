package oauth_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/oauth"
)

// shelf is a Store that several Tokens share, as nodes do.
type shelf struct {
	mu        sync.Mutex
	documents map[string][]byte
	failing   bool
}

func (s *shelf) Load(_ context.Context, name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.documents[name], nil
}

func (s *shelf) Save(_ context.Context, name string, document []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing {
		return errors.New("disk full")
	}
	if s.documents == nil {
		s.documents = map[string][]byte{}
	}
	s.documents[name] = document
	return nil
}

func (s *shelf) fail(failing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = failing
}

// door is a Locker: one holder, whatever the name. broken lets everyone in, as a
// lock does that has timed out.
type door struct {
	holder chan struct{}
	broken bool
}

func newDoor() *door { return &door{holder: make(chan struct{}, 1)} }

func (d *door) Lock(ctx context.Context, _ string, _ time.Duration) (func(), error) {
	if d.broken {
		return func() {}, nil
	}
	select {
	case d.holder <- struct{}{}:
		return sync.OnceFunc(func() { <-d.holder }), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// endpoint is a token endpoint with rotating refresh tokens, each good once.
type endpoint struct {
	mu    sync.Mutex
	good  string // the refresh token that it would accept
	n     int
	asked []url.Values
	// answer replaces the next answers, first to last.
	answers []func(*http.Request) (*http.Response, error)
	delay   time.Duration
}

func reply(status int, body string) (*http.Response, error) {
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body))}, nil
}

func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.GetBody != nil {
		return nil, errors.New("this request could be sent again, and would spend the token twice")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.asked = append(e.asked, form)
	var answer func(*http.Request) (*http.Response, error)
	if len(e.answers) > 0 {
		answer, e.answers = e.answers[0], e.answers[1:]
	}
	e.mu.Unlock()
	select {
	case <-time.After(e.delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if answer != nil {
		return answer(r)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if form.Get("refresh_token") != e.good {
		return reply(400, `{"error":"invalid_grant","error_description":"Refresh token `+form.Get("refresh_token")+` not found"}`)
	}
	e.n++
	e.good = fmt.Sprintf("refresh-%d", e.n)
	return reply(200, fmt.Sprintf(`{"access_token":"access-%d","refresh_token":%q,"expires_in":3600}`, e.n, e.good))
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.asked)
}

// node is a Tokens and what it told.
type node struct {
	*oauth.Tokens
	mu      sync.Mutex
	refused []string
}

func newNode(t *testing.T, store oauth.Store, lock oauth.Locker, e http.RoundTripper, accounts ...*upstream.Account) *node {
	n := new(node)
	n.Tokens = oauth.New(oauth.Config{
		Store: store, Locker: lock,
		Transport: func(*upstream.Account) http.RoundTripper { return e },
		Accounts:  func() []*upstream.Account { return accounts },
		Refused: func(a *upstream.Account, reason string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.refused = append(n.refused, a.Name+": "+reason)
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(n.Close)
	return n
}

func account(expires time.Time) *upstream.Account {
	return &upstream.Account{
		Name: "max", Kind: upstream.OAuth, Secret: "access-0",
		Refresh: &upstream.Refresh{Token: "refresh-0", ExpiresAt: expires, TokenURL: "https://example.com/token", ClientID: "id", ClientSecret: "secret/of client"},
	}
}

func newEndpoint() *endpoint { return &endpoint{good: "refresh-0", delay: time.Second} }

func (n *node) want(t *testing.T, a *upstream.Account, want string) {
	t.Helper()
	if got, err := n.Access(context.Background(), a); got != want || err != nil {
		t.Errorf("access token %q, error %v; want %q", got, err, want)
	}
}

func TestManyRequestsAtExpiryAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, store, lock := newEndpoint(), &shelf{}, newDoor()
		a := account(time.Now().Add(time.Hour))
		nodes := []*node{newNode(t, store, lock, e), newNode(t, store, lock, e)}
		nodes[0].want(t, a, "access-0") // not asked for while it works
		nodes[1].want(t, a, "access-0")
		time.Sleep(time.Hour)
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() { nodes[i%2].want(t, a, "access-1") })
		}
		all.Wait()
		want := []url.Values{{"grant_type": {"refresh_token"}, "refresh_token": {"refresh-0"}, "client_id": {"id"}, "client_secret": {"secret/of client"}}}
		if diff := cmp.Diff(want, e.asked); diff != "" {
			t.Errorf("asked: %s", diff)
		}
	})
}

func TestRefusedAccessTokensAreRefreshedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint()
		a := account(time.Time{})
		n := newNode(t, &shelf{}, newDoor(), e)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if got, err := n.Refresh(context.Background(), a, "access-0"); got != "access-1" || err != nil {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		time.Sleep(time.Millisecond)
		// Nobody else waits: what there is may still work.
		n.want(t, a, "access-0")
		all.Wait()
		n.want(t, a, "access-1")
		// One that was sent with the old token finds the newer one.
		if got, err := n.Refresh(context.Background(), a, "access-0"); got != "access-1" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if e.count() != 1 {
			t.Errorf("the endpoint was asked %d times", e.count())
		}
		if got, err := n.Refresh(context.Background(), a, "access-1"); got != "access-2" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestStoredTokensWinUntilTheConfigChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, store := newEndpoint(), &shelf{}
		a := account(time.Time{})
		if _, err := newNode(t, store, newDoor(), e).Refresh(t.Context(), a, "access-0"); err != nil {
			t.Fatal(err)
		}
		next := newNode(t, store, newDoor(), e)
		later := account(time.Now().Add(-time.Hour)) // only what is known of the old token changed
		next.want(t, later, "access-1")
		if _, err := next.Refresh(t.Context(), later, "access-1"); err != nil {
			t.Fatal(err)
		}
		if got := e.asked[1].Get("refresh_token"); got != "refresh-1" {
			t.Errorf("asked with %q", got)
		}
		for _, change := range map[string]func(*upstream.Account){
			"access token":  func(a *upstream.Account) { a.Secret = "new-access" },
			"refresh token": func(a *upstream.Account) { a.Refresh.Token = "new-refresh" },
		} {
			changed := account(time.Time{})
			change(changed)
			next.want(t, changed, changed.Secret)
			newNode(t, store, newDoor(), e).want(t, changed, changed.Secret)
			next.want(t, a, "access-2")
		}
	})
}

func TestAnUnreachableEndpointIsNoRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint()
		e.answers = append(e.answers, func(r *http.Request) (*http.Response, error) {
			return nil, errors.New("dialing with refresh-0")
		}, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		n := newNode(t, &shelf{}, newDoor(), e)
		a := account(time.Now().Add(-time.Second))
		if _, err := n.Access(t.Context(), a); err == nil || strings.Contains(err.Error(), "refresh-0") {
			t.Errorf("error %v", err)
		}
		began := time.Now()
		if _, err := n.Access(t.Context(), a); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 31*time.Second {
			t.Errorf("after %v: error %v", time.Since(began), err)
		}
		if len(n.refused) > 0 {
			t.Errorf("told %q", n.refused)
		}
		n.want(t, a, "access-1")
	})
}

func TestALostRaceIsNoRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, store, lock := newEndpoint(), &shelf{}, &door{broken: true}
		a := account(time.Time{})
		first, second := newNode(t, store, lock, e), newNode(t, store, lock, e)
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := first.Refresh(t.Context(), a, "access-0"); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		time.Sleep(time.Millisecond) // asks while the first one does, and is answered after it
		if got, err := second.Refresh(t.Context(), a, "access-0"); got != "access-1" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		all.Wait()
		if e.count() != 2 || len(second.refused) > 0 {
			t.Errorf("%d requests; told %q", e.count(), second.refused)
		}
	})
}

func TestNewTokensAreStoredBeforeTheyAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, store := newEndpoint(), &shelf{failing: true}
		n := newNode(t, store, newDoor(), e)
		a := account(time.Now().Add(-time.Second))
		for range 2 {
			if got, err := n.Access(t.Context(), a); err == nil {
				t.Errorf("%q is used and not stored", got)
			}
		}
		store.fail(false)
		n.want(t, a, "access-1")
		if e.count() != 1 {
			t.Errorf("the endpoint was asked %d times: the new tokens were lost", e.count())
		}
		for _, document := range store.documents {
			var kept map[string]string
			if err := json.Unmarshal(document, &kept); err != nil || kept["access_token"] != "access-1" || kept["refresh_token"] != "refresh-1" {
				t.Errorf("stored %s, %v", document, err)
			}
		}
	})
}

func TestAClientThatLeavesEndsNoRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, store := newEndpoint(), &shelf{}
		n := newNode(t, store, newDoor(), e)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := n.Refresh(ctx, account(time.Time{}), "access-0"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		n.Close() // waits for it
		if len(store.documents) != 1 {
			t.Error("the new tokens were lost")
		}
		if _, err := n.Refresh(t.Context(), account(time.Time{}), "access-1"); err != oauth.ErrClosed {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestCloseWaitsNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint()
		e.delay = time.Hour
		n := newNode(t, &shelf{}, newDoor(), e)
		go n.Refresh(context.Background(), account(time.Time{}), "access-0")
		synctest.Wait()
		began := time.Now()
		n.Close()
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("Close took %v", took)
		}
	})
}
