package redisstate_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

func TestAnOutageIsServedThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := startMini(t)
		a, b := startNode(t, server, true), startNode(t, server, true)
		c := places(4, "x")
		kept, given := a.grant("x", ask(c)), a.grant("x", ask(c))
		others := b.grant("x", ask(c))
		time.Sleep(2 * time.Second) // the nodes have heard of each other
		a.cut()
		b.cut()
		a.release(given)
		first := a.grant("x", ask(c)) // of two, which is this node's share of four
		w := a.line(ask(c))
		b.grant("x", ask(c))
		blocked := b.line(ask(c))
		a.release(first)
		synctest.Wait()
		if <-w.done; w.err != nil || w.answer.Kind != scheduler.Granted {
			t.Fatalf("%+v, %v", w.answer, w.err)
		}
		for range 6 { // longer than any lease lives by itself
			time.Sleep(20 * time.Second)
			if lost := append(a.renew(kept, w.lease), b.renew(others)...); len(lost) > 0 {
				t.Fatalf("lost %v", lost)
			}
		}
		a.mend()
		b.mend()
		time.Sleep(3 * time.Second)
		<-blocked.done // served when b's second slot expired, and expired too: nobody renewed them
		a.inUse("x", 3)
		a.release(kept)
		b.inUse("x", 2)
		b.release(others)
		a.release(w.lease)
		a.inUse("x", 0)
	})
}

// TestASlotGivenJustBeforeAnOutage, which nobody has come for yet, is the ask's.
func TestASlotGivenJustBeforeAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startNode(t, startMini(t), true)
		c := places(1, "x")
		before, next := a.grant("x", ask(c)), ask(c)
		if got := a.acquire(next); got.Kind != scheduler.Queued {
			t.Fatalf("%+v", got)
		}
		a.release(before)
		synctest.Wait() // Redis gives the slot to the next
		a.cut()
		other := ask(c)
		if got := a.acquire(other); got.Kind != scheduler.Queued {
			t.Errorf("another is given the slot: %+v", got)
		}
		got, err := a.Await(t.Context(), next.Lease)
		if err != nil || got.Kind != scheduler.Granted || got.Place != "x" {
			t.Fatalf("%+v, %v", got, err)
		}
		a.mend()
		time.Sleep(3 * time.Second)
		a.inUse("x", 1)
		a.release(other.Lease, next.Lease)
		a.inUse("x", 0)
	})
}

// TestASlotGivenWhileAnOutageBegins: who awaits it has looked for it, and waits for the
// State that is about to be in force. No bubble, since those who wait for a lock are
// not at rest in one.
func TestASlotGivenWhileAnOutageBegins(t *testing.T) {
	a := startNode(t, startMini(t), true)
	c := places(1, "x")
	before, next := a.grant("x", ask(c)), ask(c)
	if got := a.acquire(next); got.Kind != scheduler.Queued {
		t.Fatalf("%+v", got)
	}
	release := a.Stall()
	a.cut()
	var under sync.WaitGroup
	under.Go(func() { _, _ = a.Acquire(t.Context(), ask(places(1, "y"))) })
	until := func(is func() bool) {
		for !is() {
			runtime.Gosched()
		}
	}
	until(a.IsChanging)
	under.Go(func() {
		if got, err := a.Await(t.Context(), next.Lease); err != nil || got.Kind != scheduler.Granted || got.Place != "x" {
			t.Errorf("%+v, %v", got, err)
		}
	})
	until(func() bool { return a.IsAwaited(next.Lease) })
	for range 1000 {
		runtime.Gosched()
	}
	a.Hear(fmt.Sprintf(`{"lease":%q,"place":"x"}`, next.Lease))
	release()
	under.Wait()
	a.release(before, next.Lease)
}

// TestASlotGivenByARedisThatWasLeft: the word of it comes when this node serves by
// itself already.
func TestASlotGivenByARedisThatWasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startNode(t, startMini(t), true)
		c := places(1, "x")
		kept := a.grant("x", ask(c))
		a.cut()
		w := a.line(ask(c))
		a.Hear(fmt.Sprintf(`{"lease":%q,"place":"x"}`, w.lease))
		synctest.Wait()
		select {
		case <-w.done:
			t.Errorf("%+v, %v", w.answer, w.err)
		default:
		}
		a.mend()
		time.Sleep(3 * time.Second)
		a.inUse("x", 1)
		a.release(kept)
		if <-w.done; w.err != nil || w.answer.Place != "x" {
			t.Errorf("%+v, %v", w.answer, w.err)
		}
		a.inUse("x", 1)
		a.release(w.lease)
		a.inUse("x", 0)
	})
}

func TestAnOutageIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startNode(t, startMini(t), false)
		c := places(2, "x")
		kept := a.grant("x", ask(c))
		given := a.grant("x", ask(c))
		w := a.line(ask(c))
		a.cut()
		ctx := context.Background()
		for range 3 {
			if _, err := a.Acquire(ctx, ask(c)); !errors.Is(err, scheduler.ErrUnavailable) {
				t.Fatalf("got %v", err)
			}
		}
		a.release(given)
		for range 4 {
			time.Sleep(20 * time.Second)
			if lost := a.renew(kept); len(lost) > 0 {
				t.Fatalf("lost %v of a holder that kept trying", lost)
			}
		}
		if _, err := a.Lock(ctx, "l", time.Minute); !errors.Is(err, scheduler.ErrUnavailable) {
			t.Fatalf("a lock: %v", err)
		}
		a.mend()
		time.Sleep(3 * time.Second)
		if <-w.done; w.err != nil || w.answer.Kind != scheduler.Granted {
			t.Fatalf("the ask in line: %+v, %v", w.answer, w.err)
		}
		a.inUse("x", 2)
		if got := a.acquire(ask(c)); got.Kind != scheduler.Queued {
			t.Fatalf("got %+v", got)
		}
	})
}

// TestPausesDuringAnOutage: what the operator said of an account at this node holds
// when Redis is back, whatever others have learnt of it meanwhile.
func TestPausesDuringAnOutage(t *testing.T) {
	pause := func(st *scheduler.AccountState) { st.Pause = &scheduler.Pause{By: "ann", At: time.Unix(1e9, 0).UTC()} }
	resume := func(st *scheduler.AccountState) { st.Pause = nil }
	nothing := func(*scheduler.AccountState) {}
	learns := func(st *scheduler.AccountState) { st.Served = "m" }
	for name, test := range map[string]struct {
		before, here, elsewhere func(*scheduler.AccountState)
		want                    bool
	}{
		"paused here":                         {nothing, pause, nothing, true},
		"paused here, and more was learnt":    {nothing, pause, learns, true},
		"resumed here":                        {pause, resume, nothing, false},
		"resumed here, and more was learnt":   {pause, resume, learns, false},
		"paused before":                       {pause, learns, nothing, true},
		"paused elsewhere":                    {nothing, learns, pause, true},
		"resumed elsewhere":                   {pause, learns, resume, false},
		"paused before, learnt on both sides": {pause, learns, learns, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := startMini(t)
				a, b := startNode(t, server, true), startNode(t, server, true)
				change := func(n *node, f func(*scheduler.AccountState)) {
					t.Helper()
					if _, err := n.Change(t.Context(), "account/x", f); err != nil {
						t.Fatal(err)
					}
				}
				change(b, func(st *scheduler.AccountState) { st.Credential = "f" }) // as it has from the start
				change(b, test.before)
				time.Sleep(2 * time.Second) // the nodes have heard of it
				a.cut()
				change(a, test.here)
				change(b, test.elsewhere)
				a.mend()
				time.Sleep(3 * time.Second)
				for name, n := range map[string]*node{"a": a, "b": b} {
					if st := n.AccountState("account/x"); (st.Pause != nil) != test.want {
						t.Errorf("node %s: %+v, want a pause: %t", name, st, test.want)
					}
				}
			})
		})
	}
}

func TestWhatRedisForgetsItsNodesBringBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := startMini(t)
		a, b := startNode(t, server, true), startNode(t, server, true)
		c := places(2, "x", "y")
		held := a.grant("x", ask(c, session("s")))
		b.grant("y", ask(c))
		b.limit("z", time.Hour)
		a.release(a.grant("x", ask(c, session("idle"))))
		time.Sleep(time.Second)
		server.FlushAll()
		early := ask(c)
		if got := b.acquire(early); got.Kind != scheduler.Queued {
			t.Fatalf("a slot was given before the other node was heard: %+v", got)
		}
		b.release(early.Lease)
		time.Sleep(2 * time.Second)
		a.inUse("x", 1)
		b.inUse("y", 1)
		if st := a.AccountState("z"); st.Clear(time.Now()) {
			t.Error("what barred z is forgotten")
		}
		a.grant("x", ask(c, session("idle"))) // where it was, though y would be as good
		a.release(held)
		b.inUse("x", 1)
	})
}

// TestSlotsGivenBackToARedisThatForgetsIt are free again at once, though Redis has them
// as they were, and its nodes had been told that they are free.
func TestSlotsGivenBackToARedisThatForgetsIt(t *testing.T) {
	for name, isSeen := range map[string]bool{"after an outage": true, "after a failover that no call noticed": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := startMini(t)
				a := startNode(t, server, true)
				c := places(2, "x")
				kept, along := a.grant("x", ask(c)), a.grant("x", ask(c))
				w := a.line(ask(c))
				time.Sleep(time.Second)
				useRedis := redistest.Copy(t, pipeClient(t, server))
				a.release(along)
				if <-w.done; w.err != nil || w.answer.Kind != scheduler.Granted {
					t.Fatalf("%+v, %v", w.answer, w.err)
				}
				a.release(w.lease)
				time.Sleep(time.Second)
				if isSeen {
					a.cut()
					a.grant("x", ask(c))
				}
				useRedis()
				a.mend()
				time.Sleep(3 * time.Second)
				if isSeen {
					a.inUse("x", 2)
				} else {
					a.inUse("x", 1)
				}
				a.release(kept)
			})
		})
	}
}

func TestAFrozenHolderKnowsThatItLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := startMini(t)
		frozen, other := startNode(t, server, true), startNode(t, server, true)
		c := places(1, "x")
		lease := frozen.grant("x", ask(c))
		idle := frozen.grant("y", ask(places(1, "y")))
		w := other.line(ask(c))
		time.Sleep(30 * time.Second)
		select {
		case <-w.done:
			t.Fatal("the slot was given away too early")
		default:
		}
		// Nothing renews the leases, as in a process that stands still.
		time.Sleep(31 * time.Second)
		if <-w.done; w.answer.Place != "x" {
			t.Fatalf("%+v, %v", w.answer, w.err)
		}
		if lost := frozen.renew(lease, idle); !slices.Equal(lost, []string{lease, idle}) {
			t.Errorf("lost %v", lost)
		}
		frozen.release(lease)
		other.inUse("x", 1)
		other.inUse("y", 0)
	})
}

func TestAFrozenNodeDoesNotTakeWhatItWasGivenMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := startMini(t)
		frozen, other := startNode(t, server, false), startNode(t, server, false)
		c := places(1, "x")
		held := other.grant("x", ask(c))
		w := frozen.line(ask(c))
		// It hears of its slot when the slot's time is up.
		frozen.Skew(time.Minute)
		other.release(held)
		<-w.done
		if w.err != nil || w.answer.Place != "x" {
			t.Fatalf("%+v, %v", w.answer, w.err)
		}
		if lost := frozen.renew(w.lease); len(lost) > 0 {
			t.Error("it has taken a slot that was lost")
		}
		other.inUse("x", 1)
	})
}

func TestANodeThatStoodStillDoesNotServeByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := startMini(t)
		frozen, other := startNode(t, server, true), startNode(t, server, true)
		c := places(1, "x")
		for _, still := range []time.Duration{2 * time.Second, 80 * time.Second} {
			idle := frozen.grant("y", ask(places(2, "y")))
			frozen.still.Store(int64(still))
			held := make(chan string)
			go func() {
				time.Sleep(still / 2) // others go on meanwhile
				held <- other.grant("x", ask(c))
			}()
			time.Sleep(still + 2*time.Second)
			lease := <-held
			if got := frozen.acquire(ask(c)); got.Kind != scheduler.Queued {
				t.Errorf("after %v it gives a slot that is another's: %+v", still, got)
			}
			if lost := frozen.renew(idle); len(lost) > 0 != (still > time.Minute) {
				t.Errorf("after %v it has lost %v", still, lost)
			}
			// The same in the midst of an ask.
			frozen.still.Store(int64(still))
			if got := frozen.acquire(ask(c)); got.Kind != scheduler.Queued && still < time.Minute {
				t.Errorf("after %v in an ask it gives a slot that is another's: %+v", still, got)
			}
			other.release(lease)
			time.Sleep(2 * time.Minute) // nobody awaits what is in line
		}
		other.inUse("x", 0)
	})
}

func TestTheDeadAreNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := startMini(t)
		dead, other := startNode(t, server, false), startNode(t, server, false)
		c := places(1, "x")
		held := other.grant("x", ask(c))
		dead.line(ask(c))
		time.Sleep(time.Second)
		dead.cut()
		w := other.line(ask(c))
		time.Sleep(6 * time.Second)
		other.release(held)
		synctest.Wait()
		select {
		case <-w.done:
		default:
			t.Fatal("the slot was kept for a node that is dead")
		}
	})
}

func TestNodesHearOfEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := startMini(t)
		a, b := startNode(t, server, false), startNode(t, server, false)
		c := places(1, "x")
		held := a.grant("x", ask(c))
		w := b.line(ask(c))
		time.Sleep(10 * time.Second)
		a.release(held)
		<-w.done
		if w.after != 10*time.Second {
			t.Errorf("woken %v after the release", w.after-10*time.Second)
		}
		a.limit("x", time.Hour)
		if got := b.acquire(ask(c)); got.Kind != scheduler.Out {
			t.Errorf("the other node's limit is not known: %+v", got)
		}
		time.Sleep(time.Second)
		if st := b.AccountState("x"); st.Clear(time.Now()) {
			t.Error("nor is it after a second")
		}
	})
}
