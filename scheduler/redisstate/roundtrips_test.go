package redisstate_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

func TestWaitingIsCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startNode(t, startMini(t), false)
		c := places(1, "x")
		a.grant("x", ask(c))
		for range 20 {
			a.line(ask(c))
		}
		time.Sleep(time.Second)
		before := a.sent.Load()
		time.Sleep(time.Minute)
		if n := a.sent.Load() - before; n > 125 {
			t.Errorf("%d round trips in a minute", n)
		}
	})
}

func TestRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startNode(t, startMini(t), false)
		account, user := places(5, "account/a", "account/b"), places(5, "user/u")
		ctx := context.Background()
		a.release(a.grant("account/a", ask(account)), a.grant("user/u", ask(user))) // the scripts and the set are known now
		a.renew()
		a.limit("account/other", time.Hour)
		synctest.Wait() // the node's own first heartbeats are over
		before := a.sent.Load()
		trips := func(want int64, what string) {
			t.Helper()
			if n := a.sent.Load() - before; n != want {
				t.Errorf("%s took %d round trips, want %d", what, n, want)
			}
			before = a.sent.Load()
		}
		first := a.grant("user/u", ask(user))
		trips(1, "a user's slot")
		second := a.grant("account/b", ask(account, session("s")))
		trips(1, "an account's slot")
		if err := a.Release(ctx, first, second); err != nil {
			t.Fatal(err)
		}
		trips(1, "releasing both")
		first, second = a.grant("user/u", ask(user)), a.grant("account/b", ask(account, session("s")))
		before = a.sent.Load()
		along, done := a.ReleaseAlong(first, second)
		if err := a.link.Exec(ctx, redislink.Guard{}, along, func(pipe redis.Pipeliner) { pipe.Ping(ctx) }); err != nil {
			t.Fatal(err)
		}
		done(ctx)
		trips(1, "something else, and releasing both")
		a.inUse("account/b", 0)
		var leases []string
		for range 300 {
			leases = append(leases, a.grant("account/z", ask(places(0, "account/z"))))
		}
		before = a.sent.Load()
		a.renew(leases...)
		trips(1, "renewing 300")
		a.limit("account/a", time.Hour)
		trips(1, "a change of an account's state")
		if _, err := a.Loads(ctx, []string{"account/a", "account/b", "user/u"}); err != nil {
			t.Fatal(err)
		}
		trips(1, "how busy three places are")
	})
}

// TestALongLineIsCheap has what a heartbeat and a release cost Redis grow with the line and
// not with its square.
func TestALongLineIsCheap(t *testing.T) {
	const inLine = 300
	synctest.Test(t, func(t *testing.T) {
		server := startMini(t)
		a := startNode(t, server, false)
		user := places(1, "user/u")
		held := a.grant("user/u", ask(user))
		var line []*waiting
		for range inLine {
			line = append(line, a.line(ask(user, func(a *scheduler.Ask) { a.MaxWaiting = inLine })))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		cost := func(what string, most int, do func()) {
			t.Helper()
			before := server.CommandCount()
			do()
			synctest.Wait()
			if n := server.CommandCount() - before; n > most {
				t.Errorf("%s took %d commands, want %d at most", what, n, most)
			}
		}
		cost("a heartbeat", 10*inLine, a.Heartbeat)
		cost("a release", 100, func() { a.release(held) })
		<-line[0].done
		if got := line[0].answer; got.Kind != scheduler.Granted {
			t.Fatalf("the first in line got %+v", got)
		}
		// A slot more by a new config is given to those who ask by it.
		more := ask(places(2, "user/u"), func(a *scheduler.Ask) { a.MaxWaiting = inLine })
		cost("another slot", 100, func() { a.grant("user/u", more) })
		a.release(line[0].lease, more.Lease)
		<-line[1].done
		a.inUse("user/u", 1)
	})
}
