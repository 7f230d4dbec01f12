package oauth_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// run runs Tokens for d.
func (n *node) run(t *testing.T, d time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	n.Run(ctx)
}

func TestTokensAreRefreshedBeforeTheyExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint()
		a := account(time.Now().Add(2 * time.Hour))
		n := newNode(t, &shelf{}, newDoor(), e, a)
		go n.run(t, 3*time.Hour)
		time.Sleep(90*time.Minute - time.Second)
		if e.count() != 0 {
			t.Errorf("asked %d times an hour before the end", e.count())
		}
		time.Sleep(6 * time.Minute)
		n.want(t, a, "access-1")
		time.Sleep(time.Hour) // that one lives for an hour
		n.want(t, a, "access-2")
		if e.count() != 2 {
			t.Errorf("asked %d times", e.count())
		}
	})
}

func TestBackgroundRefreshTriesThreeTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint()
		e.delay = 0
		down := func(*http.Request) (*http.Response, error) { return nil, errors.New("down") }
		var at []time.Duration
		began := time.Now()
		for range 4 {
			e.answers = append(e.answers, func(r *http.Request) (*http.Response, error) {
				at = append(at, time.Since(began))
				return down(r)
			})
		}
		a := account(time.Now().Add(time.Minute))
		n := newNode(t, &shelf{}, newDoor(), e, a)
		n.run(t, 5*time.Minute+3*time.Second)
		want := []time.Duration{0, 2 * time.Second, 6 * time.Second, 5 * time.Minute}
		if len(at) != 4 || at[0] != want[0] || at[1] != want[1] || at[2] != want[2] || at[3] != want[3] {
			t.Errorf("tried at %v, want %v", at, want)
		}
		n.want(t, a, "access-1")
		if e.count() != 5 || len(n.refused) > 0 {
			t.Errorf("%d requests; told %q", e.count(), n.refused)
		}
	})
}

func TestBackgroundLeavesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		soon := time.Now().Add(time.Minute)
		disabled, unknown, key := account(soon), account(time.Time{}), &upstream.Account{Name: "key", Secret: "k"}
		disabled.Disabled = true
		e := newEndpoint()
		n := newNode(t, &shelf{}, newDoor(), e, disabled, unknown, key)
		n.run(t, time.Hour)
		if e.count() != 0 {
			t.Errorf("asked %d times", e.count())
		}
		n.want(t, key, "k")

		// A refused token is told of, and asked with, once.
		e = newEndpoint()
		e.good = "another"
		n = newNode(t, &shelf{}, newDoor(), e, account(soon), account(soon))
		n.run(t, time.Hour)
		if len(n.refused) != 1 || e.count() != 1 {
			t.Errorf("%d requests; told %q", e.count(), n.refused)
		}
	})
}

func BenchmarkAccess(b *testing.B) {
	n := newNode(&testing.T{}, &shelf{}, newDoor(), newEndpoint())
	defer n.Close()
	a := account(time.Now().Add(time.Hour))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := n.Access(context.Background(), a); err != nil {
				b.Fatal(err)
			}
		}
	})
}
