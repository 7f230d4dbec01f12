package redisledger_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

// withoutDeadline hides a test's deadline, which nobody may ask for in a bubble.
type withoutDeadline struct{ testing.TB }

// TestAnyHistory compares a ledger with a plain model of it, over outages, answers that
// get lost, restarts, processes that are killed, and a Redis that goes back in time.
// While Redis is up, both say the same; while it is down, no balance is too high.
func TestAnyHistory(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, _ *redis.Client) {
		rapid.Check(withoutDeadline{t}, func(r *rapid.T) {
			mini.SetError("")
			mini.FlushAll()
			h := &history{
				t: t, mini: mini, admin: clientOf(t, mini), spool: t.TempDir(),
				config: map[string]billing.User{}, openings: map[string]billing.USD{}, charged: map[string]billing.USD{},
				settled: map[string]bool{}, aside: map[string]*billing.Record{},
			}
			h.open()
			defer func() {
				h.back(nil)
				_ = h.l.close()
			}()
			r.Repeat(map[string]func(*rapid.T){
				"declare": h.declare, "settle": h.settle, "settle more": h.settle, "list": h.list,
				"reopen": h.reopen, "kill": h.kill, "save": h.save, "go back": h.useRedis,
				"outage": func(*rapid.T) { h.fail(loading) },
				"full":   func(*rapid.T) { h.fail("OOM command not allowed when used memory > 'maxmemory'.") },
				"back":   h.back,
				"wait":   func(r *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 40).Draw(r, "seconds")) * time.Second) },
				"":       h.check,
			})
		})
	})
}

type history struct {
	t       *testing.T
	mini    *miniredis.Miniredis
	admin   *redis.Client
	spool   string
	l       *node
	lost    *loser
	dead    *outage // ends what the process does
	failing string
	// known are the users of whom this process has heard from Redis.
	known map[string]bool

	config   map[string]billing.User
	openings map[string]billing.USD // that were credited
	charged  map[string]billing.USD
	settled  map[string]bool
	// aside are records that were acknowledged, of users who were not declared by then.
	aside map[string]*billing.Record

	restore       func() // to the state of savedAt; nil if there is none
	savedAt       time.Time
	savedOpenings map[string]billing.USD
}

var someUser = rapid.SampledFrom([]string{"a", "b", "c"})

// open starts a process, which declares the users of its config.
func (h *history) open() {
	client := clientOf(h.t, h.mini)
	h.lost, h.dead = new(loser), outageOf(client)
	client.AddHook(pipelineHook(h.lost.hook))
	h.l = openWith(h.t, client, redisledger.Options{Spool: h.spool})
	h.known = map[string]bool{}
	must(h.t, h.l.Declare(context.Background(), slices.Collect(maps.Values(h.config))))
	h.deliver()
}

func (h *history) fail(why string) {
	h.failing = why
	h.mini.SetError(why)
}

func (h *history) back(*rapid.T) {
	h.fail("")
	h.deliver()
}

// deliver has the model hear what Redis hears when it is up: openings are credited, once,
// and then records are taken that were put aside.
func (h *history) deliver() {
	if h.failing != "" {
		return
	}
	for name, u := range h.config {
		if _, isOpened := h.openings[name]; !isOpened {
			h.openings[name] = u.Balance
		}
	}
	for id, r := range h.aside {
		if _, isDeclared := h.config[r.User]; isDeclared {
			h.keep(r)
			delete(h.aside, id)
		}
	}
}

func (h *history) keep(r *billing.Record) {
	if !h.settled[r.ID] && r.Billing == billing.PaidFromBalance {
		h.charged[r.User] += r.Charged
	}
	h.settled[r.ID] = true
}

func (h *history) balance(name string) billing.USD { return h.openings[name] - h.charged[name] }

func (h *history) declare(t *rapid.T) {
	u := billing.User{Name: someUser.Draw(t, "user")}
	if u.Unlimited = u.Name == "c"; !u.Unlimited {
		u.Balance = billing.USD(rapid.Int64Range(-1e12, 1e12).Draw(t, "balance"))
	}
	h.config[u.Name] = u
	if err := h.l.Declare(context.Background(), []billing.User{u}); err != nil {
		t.Fatalf("Declare: %v", err)
	}
	h.deliver()
}

func (h *history) settle(t *rapid.T) {
	id := rapid.IntRange(1, 60).Draw(t, "id") // the same record each time
	r := exampleOf(fmt.Sprint(id))
	r.User, r.Charged = []string{"a", "b", "c"}[id%3], billing.USD(1000*(id%7+1))
	if id%5 == 0 {
		r.Billing = billing.PaidByNobody
	}
	_, isDeclared := h.config[r.User]
	isStrange := r.Billing == billing.PaidFromBalance && !isDeclared
	h.lost.next.Store(h.failing == "" && !isStrange && rapid.Bool().Draw(t, "the answer is lost"))
	err := h.l.Settle(context.Background(), r, nil)
	switch {
	case h.failing == "" && isStrange:
		if !errors.Is(err, billing.ErrUnknownUser) {
			t.Fatalf("Settle of somebody unknown: %v", err)
		}
	case err != nil:
		t.Fatalf("Settle: %v", err)
	case isStrange:
		h.aside[r.ID] = r
	default:
		h.keep(r)
	}
}

func (h *history) list(t *rapid.T) {
	err := h.l.Records(context.Background(), billing.RecordFilter{}, func(*billing.Record) bool { return true })
	if (h.failing != "") != errors.Is(err, billing.ErrUnavailable) || h.failing == "" && err != nil {
		t.Fatalf("Records: %v", err)
	}
}

func (h *history) reopen(t *rapid.T) {
	waiting := h.l.Waiting()
	if err := h.l.close(); (waiting > 0 && h.failing != "") != (err != nil) {
		t.Fatalf("Close: %v with %d records waiting", err, waiting)
	}
	h.open()
}

// kill ends the process as kill -9 does: nothing of it reaches Redis any more, or what
// the next one finds in the spool.
func (h *history) kill(*rapid.T) {
	h.dead.is.Store(true)
	left := h.spool
	h.spool = h.t.TempDir()
	must(h.t, os.CopyFS(h.spool, os.DirFS(left)))
	_ = h.l.close()
	h.open()
}

func (h *history) save(*rapid.T) {
	if h.failing == "" {
		h.restore, h.savedAt, h.savedOpenings = redistest.Copy(h.t, h.admin), time.Now(), maps.Clone(h.openings)
	}
}

// useRedis has Redis lose up to 50 s. Who is not known there then is declared again when
// somebody asks, with what the config says by now.
func (h *history) useRedis(*rapid.T) {
	if h.restore == nil || time.Since(h.savedAt) > 50*time.Second {
		return
	}
	h.dead.is.Store(h.failing != "") // the process does not see it up meanwhile
	h.mini.SetError("")
	h.restore()
	h.mini.SetError(h.failing)
	h.dead.is.Store(false)
	h.openings = maps.Clone(h.savedOpenings)
	maps.DeleteFunc(h.known, func(name string, _ bool) bool {
		_, isOpened := h.openings[name]
		return !isOpened
	})
	h.deliver()
}

func (h *history) check(t *rapid.T) {
	ctx := context.Background()
	if h.failing != "" {
		time.Sleep(time.Second) // for the process to look into its spool
		for name := range h.known {
			if b, err := h.l.Balance(ctx, name); err != nil || b.Amount > h.balance(name) {
				t.Fatalf("%s has %s, %v, while Redis is down; want %s at most", name, b.Amount, err, h.balance(name))
			}
		}
		return
	}
	time.Sleep(2 * time.Second)
	wrong := h.differs()
	for tries := 0; wrong != nil && tries < 60; tries++ {
		time.Sleep(time.Second)
		wrong = h.differs()
	}
	if wrong != nil {
		t.Fatalf("a minute later: %v", wrong)
	}
}

// differs says what the ledger has, and the model has not.
func (h *history) differs() error {
	ctx := context.Background()
	for name := range h.config {
		b, err := h.l.Balance(ctx, name)
		if err != nil || b.Amount != h.balance(name) {
			return fmt.Errorf("%s has %s, %w, want %s", name, b.Amount, err, h.balance(name))
		}
	}
	if err := h.l.link.Down(); err != nil || h.l.Waiting() > 0 {
		return fmt.Errorf("%w, and %d records wait", err, h.l.Waiting())
	}
	kept, twice := map[string]bool{}, ""
	err := h.l.Records(ctx, billing.RecordFilter{}, func(r *billing.Record) bool {
		if kept[r.ID] {
			twice = r.ID
		}
		kept[r.ID] = true
		return true
	})
	if err != nil || twice != "" || !maps.Equal(kept, h.settled) {
		return fmt.Errorf("the records %v, %q twice, %w; want %v", slices.Sorted(maps.Keys(kept)), twice, err, slices.Sorted(maps.Keys(h.settled)))
	}
	for name := range h.config {
		h.known[name] = true
	}
	return nil
}
