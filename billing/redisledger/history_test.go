package redisledger_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
)

// TestAnyHistory compares a ledger with a plain model of it, over outages, lost answers
// and restarts.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mini := miniredis.NewMiniRedis()
		must(t, mini.Start())
		defer mini.Close()
		spool, err := os.MkdirTemp("", "spool")
		must(t, err)
		defer os.RemoveAll(spool)
		client := connect(t, &redis.Options{Addr: mini.Addr()})
		defer client.Close()
		h := &history{
			client: client, lost: new(loser), options: redisledger.Options{Spool: spool},
			balances: map[string]billing.USD{}, settled: map[string]bool{}, begin: map[string]billing.USD{},
		}
		client.AddHook(pipelineHook(h.lost.hook))
		client.AddHook(pipelineHook(h.refuse))
		h.l = openWith(t, client, h.options)
		defer func() { _ = h.l.close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"declare": h.declare, "settle": h.settle, "reopen": func(*rapid.T) { h.reopen(t) },
			"outage": func(*rapid.T) { h.fail(loading) },
			"full":   func(*rapid.T) { h.fail("OOM command not allowed when used memory > 'maxmemory'.") },
			"back":   func(*rapid.T) { h.fail("") },
			"":       h.check,
		})
		h.fail("")
		eventually(t, "Redis is back", func() bool { return h.l.link.Down() == nil })
		h.l.wantWaiting(t, 0)
		h.check(rt)
		if n := len(recordsIn(t, h.l, billing.RecordFilter{})); n != len(h.settled) {
			rt.Fatalf("%d records, want %d", n, len(h.settled))
		}
	})
}

type history struct {
	client   *redis.Client
	lost     *loser
	options  redisledger.Options
	l        *node
	failing  atomic.Pointer[serverError]
	begin    map[string]billing.USD // opening balances, of those who were declared
	balances map[string]billing.USD
	settled  map[string]bool
}

var someUser = rapid.SampledFrom([]string{"a", "b", "c"})

// serverError is what a server says to everything.
type serverError string

func (e serverError) Error() string { return string(e) }
func (serverError) RedisError()     {}

func (h *history) isFailing() bool { return h.failing.Load() != nil }

func (h *history) fail(why serverError) {
	h.failing.Store(&why)
	if why == "" {
		h.failing.Store(nil)
	}
}

// refuse stands before the server, whose scripts run to their end.
func (h *history) refuse(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if why := h.failing.Load(); why != nil {
			return fail(cmds, *why)
		}
		return next(ctx, cmds)
	}
}

func (h *history) declare(t *rapid.T) {
	u := billing.User{Name: someUser.Draw(t, "user")}
	amount, known := h.begin[u.Name]
	if !known {
		amount = billing.USD(rapid.Int64Range(-1e12, 1e12).Draw(t, "balance"))
		h.begin[u.Name], h.balances[u.Name] = amount, amount
	}
	u.Balance = amount
	if err := h.l.Declare(context.Background(), []billing.User{u}); err != nil {
		t.Fatalf("Declare: %v", err)
	}
}

func (h *history) settle(t *rapid.T) {
	id := rapid.IntRange(1, 40).Draw(t, "id")
	r := exampleOf(fmt.Sprint(id)) // the same each time
	r.User, r.Charged = []string{"a", "b", "c"}[id%3], billing.USD(id*1000)
	r.Billing = billing.PaidFromBalance
	if id%4 == 0 {
		r.Billing = billing.PaidByNobody
	}
	_, known := h.balances[r.User]
	if !known || h.isFailing() && h.settled[r.ID] {
		return // refused, or told to be the same as before, only once Redis is back
	}
	if !h.isFailing() {
		h.lost.next.Store(rapid.Bool().Draw(t, "the answer is lost"))
	}
	if err := h.l.Settle(context.Background(), r, nil); err != nil {
		t.Fatalf("Settle: %v", err)
	}
	h.lost.next.Store(false)
	if !h.settled[r.ID] {
		h.settled[r.ID] = true
		if r.Billing == billing.PaidFromBalance {
			h.balances[r.User] -= r.Charged
		}
	}
}

func (h *history) reopen(t *testing.T) {
	_ = h.l.close() // an error where records wait
	h.fail("")
	h.l = openWith(t, h.client, h.options)
	for name, amount := range h.begin {
		must(t, h.l.Declare(t.Context(), []billing.User{{Name: name, Balance: amount}}))
	}
	r := exampleOf("first") // once it is settled, what was left in the spool is known
	r.User, r.Billing = "a", billing.PaidByNobody
	must(t, h.l.Settle(t.Context(), r, nil))
	h.settled[r.ID] = true
	eventually(t, "Redis has what was left in the spool", func() bool {
		return h.l.Waiting() == 0 && sizeOf(h.options.Spool, "0", "refused") == 0
	})
}

// check: what is not known to be in Redis may count twice for a moment; nothing is ever
// promised that is not there, and once nothing waits, all is exact.
func (h *history) check(t *rapid.T) {
	for name, want := range h.balances {
		got, err := h.l.Balance(context.Background(), name)
		if err != nil || got.Amount > want || got.Amount < want-1_000_000 {
			t.Fatalf("Balance(%s) = %+v, %v; want %s, or a little less", name, got, err, want)
		}
		if h.isFailing() || h.l.Waiting() > 0 {
			continue
		}
		if got, err = h.l.Balance(context.Background(), name); err != nil || got.Amount != want {
			t.Fatalf("Balance(%s) = %+v, %v; want %s", name, got, err, want)
		}
	}
}
