package redisstate_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
	"github.com/sub2api/caddy-sub2api/scheduler/redisstate"
)

// TestAStateThatIsNotUsedSaysNothing to Redis, whatever its link hears.
func TestAStateThatIsNotUsedSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := startMini(t)
		n := startNode(t, server, true)
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		server.FlushAll()
		client := pipeClient(t, server)
		link := redislink.New(client, redislink.Options{Logger: quiet})
		defer link.Close()
		state := redisstate.New(link, redisstate.Options{Logger: quiet, Fallback: func(now func() time.Time) scheduler.State { return memstate.NewAt(now) }})
		defer state.Close()
		time.Sleep(time.Minute)
		if keys := server.Keys(); len(keys) > 0 {
			t.Errorf("it wrote %q", keys)
		}
		server.SetError("LOADING")
		_ = link.Exec(t.Context(), redislink.Guard{}, nil, func(pipe redis.Pipeliner) { pipe.Ping(t.Context()) })
		time.Sleep(time.Minute)
		server.SetError("")
		time.Sleep(time.Second)
		if keys := server.Keys(); len(keys) > 1 { // the link's probe
			t.Errorf("it wrote %q", keys)
		}
	})
}

// TestAnOutageThatOthersFind: the state does not have to meet it itself, and those in
// line are served by this node at once.
func TestAnOutageThatOthersFind(t *testing.T) {
	for mode, serves := range map[string]bool{"serve": true, "refuse": false} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := startNode(t, startMini(t), serves)
				b := startNode(t, a.server, serves)
				c := places(1, "x")
				held := b.grant("x", ask(c))
				w := a.line(ask(c))
				time.Sleep(time.Second)
				a.cut()
				if err := a.link.Exec(t.Context(), redislink.Guard{}, nil, func(pipe redis.Pipeliner) { pipe.Ping(t.Context()) }); err == nil {
					t.Fatal("no outage")
				}
				began := time.Now()
				synctest.Wait() // it may have met the outage itself at the same moment
				before := a.sent.Load()
				select {
				case <-w.done:
					if !serves || w.err != nil || w.answer.Kind != scheduler.Granted {
						t.Errorf("in line: %+v, %v", w.answer, w.err)
					}
				default:
					if serves {
						t.Error("it waits for a Redis that is gone")
					}
				}
				another := ask(places(1, "y"))
				_, err := a.Acquire(t.Context(), another)
				if serves != (err == nil) || err != nil && (!errors.Is(err, scheduler.ErrUnavailable) || !strings.Contains(err.Error(), "closed") && !strings.Contains(err.Error(), "cut")) {
					t.Errorf("another: %v", err)
				}
				if took := time.Since(began); took > 0 || a.sent.Load() != before {
					t.Errorf("it asked %d times, for %v", a.sent.Load()-before, took)
				}
				a.release(another.Lease)
				a.mend()
				time.Sleep(3 * time.Second)
				b.release(held)
				<-w.done
				a.inUse("x", 1)
				a.inUse("y", 0)
			})
		})
	}
}

// TestWhatRedisSaysOfOneCall is no outage, and no fault of the caller's either.
func TestWhatRedisSaysOfOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := startMini(t)
		a := startNode(t, server, true)
		c := places(1, "x")
		held := a.grant("x", ask(c))
		time.Sleep(time.Second)
		fields, err := server.DB(0).HKeys("{sub2api}:seq")
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]string{}
		for _, field := range fields {
			values[field] = server.HGet("{sub2api}:seq", field)
		}
		server.Del("{sub2api}:seq")
		if err := server.Set("{sub2api}:seq", "text"); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Acquire(t.Context(), ask(c)); !errors.Is(err, scheduler.ErrUnavailable) || !strings.Contains(err.Error(), "WRONGTYPE") {
			t.Errorf("error %v", err)
		}
		a.release(held) // Redis does not take it now
		if down := a.link.Down(); down != nil {
			t.Errorf("down: %v", down)
		}
		server.Del("{sub2api}:seq")
		for field, value := range values {
			server.HSet("{sub2api}:seq", field, value)
		}
		time.Sleep(time.Second)
		a.inUse("x", 0)
	})
}

// TestANodeThatRedisDoesNotTakeBack serves on by itself until it does.
func TestANodeThatRedisDoesNotTakeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := startMini(t)
		a := startNode(t, server, true)
		c := places(2, "x")
		held := a.grant("x", ask(c))
		time.Sleep(time.Second)
		a.cut()
		a.release(a.grant("x", ask(c)))
		server.Del("{sub2api}:nodes")
		if err := server.Set("{sub2api}:nodes", "text"); err != nil {
			t.Fatal(err)
		}
		a.mend()
		for range 4 {
			time.Sleep(20 * time.Second)
			if lost := a.renew(held); len(lost) > 0 {
				t.Fatalf("lost %v", lost)
			}
			a.release(a.grant("x", ask(c)))
		}
		if a.link.Down() == nil {
			t.Error("Redis counts as up")
		}
		server.Del("{sub2api}:nodes")
		time.Sleep(3 * time.Second)
		if down := a.link.Down(); down != nil {
			t.Errorf("down: %v", down)
		}
		b := startNode(t, server, true)
		b.inUse("x", 1)
	})
}

// TestRedisGoesAgainWhileItIsTakenBack: whenever that happens, this node serves on, and
// is with Redis in the end.
func TestRedisGoesAgainWhileItIsTakenBack(t *testing.T) {
	for after := range int64(12) { // round trips
		synctest.Test(t, func(t *testing.T) {
			server := startMini(t)
			a := startNode(t, server, true)
			c := places(2, "x")
			held := a.grant("x", ask(c, session("s")))
			a.limit("y", time.Hour)
			time.Sleep(time.Second)
			a.cut()
			a.limit("z", time.Hour)
			a.release(a.grant("x", ask(c)))
			ctx, stop := context.WithCancel(t.Context())
			first := a.sent.Load()
			go func() { // cuts the wire again
				for ctx.Err() == nil && a.sent.Load() < first+after {
					time.Sleep(time.Millisecond)
				}
				a.cut()
				time.Sleep(5 * time.Second)
				a.mend()
			}()
			a.mend()
			for range 10 {
				a.release(a.grant("x", ask(c)))
				time.Sleep(3 * time.Second)
			}
			stop()
			if lost := a.renew(held); len(lost) > 0 {
				t.Errorf("lost %v", lost)
			}
			time.Sleep(20 * time.Second)
			b := startNode(t, server, true)
			time.Sleep(time.Second)
			b.inUse("x", 1)
			if st := b.AccountState("z"); st.Clear(time.Now()) {
				t.Error("what was learnt in the outage is lost")
			}
		})
	}
}
