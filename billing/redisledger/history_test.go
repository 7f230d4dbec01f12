package redisledger

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/billing"
)

// TestAnyHistory compares a ledger with a plain model of it, over outages and
// restarts.
func TestAnyHistory(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	lost := new(loser)
	client.AddHook(pipelineHook(lost.hook))
	rapid.Check(t, func(t *rapid.T) {
		mini.SetError("")
		mini.FlushAll()
		spool, err := os.MkdirTemp("", "spool")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(spool)
		h := &history{
			mini: mini, client: client, lost: lost, options: Options{Namespace: "n", Spool: spool},
			balances: map[string]billing.Balance{}, opened: map[string]bool{}, settled: map[string]bool{},
		}
		h.open()
		defer func() { h.l.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"declare": h.declare, "settle": h.settle, "list": h.list, "reopen": h.reopen,
			"outage": func(*rapid.T) { h.fail("LOADING") },
			"full":   func(*rapid.T) { h.fail("OOM") },
			"back":   func(*rapid.T) { h.fail("") },
			"":       h.check,
		})
	})
}

type history struct {
	mini     *miniredis.Miniredis
	client   redis.UniversalClient
	lost     *loser
	options  Options
	l        *Ledger
	failing  string
	balances map[string]billing.Balance
	opened   map[string]bool
	settled  map[string]bool
}

var someUser = rapid.SampledFrom([]string{"a", "b", "c"})

func (h *history) fail(why string) {
	h.failing = why
	h.mini.SetError(why)
	h.drain()
}

// open opens a ledger without its loop, whose part the history plays: nothing is
// left to chance.
func (h *history) open() {
	h.l = New(h.client, h.options)
	stopLoops(h.l)
	h.l.adopt()
}

// drain has the ledger find out whether Redis is back.
func (h *history) drain() {
	h.l.recovered(context.Background())
}

func (h *history) declare(t *rapid.T) {
	u := billing.User{Name: someUser.Draw(t, "user"), Unlimited: rapid.Bool().Draw(t, "unlimited")}
	u.Balance = billing.USD(rapid.Int64Range(-1e12, 1e12).Draw(t, "balance"))
	err := h.l.Declare(context.Background(), []billing.User{u})
	if (h.failing != "") != (err != nil) {
		t.Fatalf("Declare: %v", err)
	}
	if err != nil {
		return
	}
	b := h.balances[u.Name]
	b.Unlimited = u.Unlimited
	if !u.Unlimited && !h.opened[u.Name] {
		b.Amount += u.Balance
		h.opened[u.Name] = true
	}
	h.balances[u.Name] = b
}

func (h *history) settle(t *rapid.T) {
	r := exampleOf(fmt.Sprint(rapid.IntRange(1, 40).Draw(t, "id")))
	r.User, r.Charged = someUser.Draw(t, "user"), billing.USD(len(r.ID)*1000) // the same each time
	r.Billing = rapid.SampledFrom([]string{billing.PaidFromBalance, billing.PaidByNobody}).Draw(t, "billing")
	b, known := h.balances[r.User]
	paid := r.Billing == billing.PaidFromBalance
	if h.failing != "" && (paid && !known || h.settled[r.ID]) {
		return // refused, or told to be the same as before, only once Redis is back
	}
	if h.failing == "" && (known || !paid) {
		h.lost.next.Store(rapid.Bool().Draw(t, "the answer is lost"))
	}
	err := h.l.Settle(context.Background(), r, nil)
	h.drain()
	if fails := paid && !known && !h.settled[r.ID]; fails != (err != nil) {
		t.Fatalf("Settle: %v", err)
	}
	if err == nil && !h.settled[r.ID] {
		h.settled[r.ID] = true
		if paid {
			b.Amount -= r.Charged
			h.balances[r.User] = b
		}
	}
}

func (h *history) list(t *rapid.T) {
	n := 0
	err := h.l.Records(context.Background(), billing.RecordFilter{}, func(*billing.Record) bool { n++; return true })
	if (h.failing != "") != (err != nil) {
		t.Fatalf("Records: %v", err)
	}
	if err == nil && n != len(h.settled) {
		t.Fatalf("%d records, want %d", n, len(h.settled))
	}
}

func (h *history) reopen(t *rapid.T) {
	waiting := h.l.Waiting()
	if err := h.l.Close(); (waiting > 0 && h.failing != "") != (err != nil) {
		t.Fatalf("Close: %v with %d records waiting", err, waiting)
	}
	h.failing = "" // nothing is known yet of balances
	h.mini.SetError("")
	h.open()
	h.drain()
}

func (h *history) check(t *rapid.T) {
	for name, want := range h.balances {
		if got, err := h.l.Balance(context.Background(), name); err != nil || got != want {
			t.Fatalf("Balance(%s) = %+v, %v; want %+v", name, got, err, want)
		}
	}
}
