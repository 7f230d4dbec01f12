package nodes_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/redisstate"
)

// wantLedger waits until the ledger has the record of every whole answer that
// came after since, and no other from then on, and compares what was charged
// with what the users have left.
func (f *fleet) wantLedger(since time.Time) {
	f.t.Helper()
	ledger := redisledger.New(f.link(), redisledger.Options{Namespace: namespace, Spool: f.t.TempDir()})
	defer ledger.Close()
	var records map[string]billing.Record
	var missing []string
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		records = f.records(ledger)
		missing = f.missing(records, since)
		if len(missing) == 0 || time.Now().After(end) {
			break
		}
	}
	if len(missing) > 0 {
		f.t.Errorf("%d answers have no record:%s", len(missing), gatewaytest.List(missing))
	}
	var strange []string
	charged := map[string]billing.USD{}
	for id, r := range records {
		f.mu.Lock()
		_, answered := f.answered[id]
		f.mu.Unlock()
		if !answered {
			strange = append(strange, fmt.Sprintf("%s: status %d after %d attempts", id, r.Status, r.Attempts))
		}
		charged[r.User] += r.Charged
	}
	if len(strange) > 0 {
		f.t.Errorf("%d records are of no whole answer:%s", len(strange), gatewaytest.List(strange))
	}
	f.wantBalances(ledger, charged)
}

func (f *fleet) wantBalances(ledger *redisledger.Ledger, charged map[string]billing.USD) {
	f.t.Helper()
	opening, err := billing.ParseUSD("1000")
	if err != nil {
		f.t.Fatal(err)
	}
	for i := range users {
		user := fmt.Sprintf("u%d", i)
		left, err := ledger.Balance(context.Background(), user)
		if err != nil {
			f.t.Fatal(err)
		}
		if charged[user]+left.Amount != opening {
			f.t.Errorf("%s was charged %s and has %s left of %s", user, charged[user], left.Amount, opening)
		}
	}
}

func (f *fleet) records(ledger *redisledger.Ledger) map[string]billing.Record {
	f.t.Helper()
	out := map[string]billing.Record{}
	err := ledger.Records(context.Background(), billing.RecordFilter{}, func(r *billing.Record) bool {
		if _, twice := out[r.ID]; twice {
			f.t.Errorf("the ledger has two records of %s", r.ID)
		}
		out[r.ID] = *r
		return true
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// missing are the answers since a time that have no record.
func (f *fleet) missing(records map[string]billing.Record, since time.Time) (ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, at := range f.answered {
		if _, ok := records[id]; !ok && at.After(since) {
			ids = append(ids, id)
		}
	}
	return ids
}

// books looks at the shared state as one more node would.
func (f *fleet) books() *redisstate.State {
	state := redisstate.New(f.link(), redisstate.Options{Namespace: namespace, Logger: slog.New(slog.DiscardHandler)})
	f.t.Cleanup(func() { state.Close() })
	return state
}

// link is a link of the test's own.
func (f *fleet) link() *redislink.Link {
	link := redislink.New(f.client, redislink.Options{Namespace: namespace, Timeout: 5 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	f.t.Cleanup(link.Close)
	return link
}

// inUse is how many slots of accounts, or of users, are in use by the books.
func (f *fleet) inUse(books *redisstate.State, places ...string) (sum int) {
	f.t.Helper()
	for _, place := range places {
		load, err := books.Load(context.Background(), place)
		if err != nil {
			f.t.Fatal(err)
		}
		sum += load.InUse
	}
	return sum
}

// places are those of n accounts of a kind.
func places(prefix string, n int) (out []string) {
	for i := range n {
		out = append(out, scheduler.AccountPlace(fmt.Sprintf("%s%d", prefix, i)))
	}
	return out
}

// wantFree fails the test unless nothing is held any more.
func (f *fleet) wantFree(accounts ...string) {
	f.t.Helper()
	for i := range users {
		accounts = append(accounts, scheduler.UserPlace(fmt.Sprintf("u%d", i)))
	}
	books := f.books()
	sum := 0
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if sum = f.inUse(books, accounts...); sum == 0 || time.Now().After(end) {
			break
		}
	}
	if sum != 0 {
		for _, place := range accounts {
			f.t.Errorf("%d slots are in use at %s, and nobody asks anything", f.inUse(books, place), place)
		}
	}
}
