package crashes_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/sqliteledger"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

// wantBooks compares a ledger with what the clients were told, and with itself.
// What gateways that were killed had set aside must come back within holdTime.
func (c *clients) wantBooks(ledger billing.Ledger, holdTime time.Duration) {
	c.t.Helper()
	records := recordsOf(c.t, ledger)
	c.wantPromises(records)
	c.wantBalances(ledger, records)
	wantWindows(c.t, ledger, records)
	wantUsage(c.t, ledger, records)
	gatewaytest.Within(c.t, holdTime, "nothing is set aside for requests any more", func() bool {
		var held billing.USD
		for _, p := range people {
			held += balanceOf(c.t, ledger, p).Held
		}
		return held == 0
	})
	c.t.Logf("%d answers were read whole, and %d records are kept", len(c.read), len(records))
}

// recordsOf reads all records, of which no two may have one id.
func recordsOf(t *testing.T, ledger billing.Archive) map[string]*billing.Record {
	t.Helper()
	records := map[string]*billing.Record{}
	err := ledger.Records(t.Context(), billing.RecordFilter{}, func(r *billing.Record) bool {
		if records[r.ID] != nil {
			t.Errorf("the ledger has two records of %s", r.ID)
		}
		records[r.ID] = r
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// wantPromises: what a client has read whole is on record.
func (c *clients) wantPromises(records map[string]*billing.Record) {
	c.t.Helper()
	var missing, wrong []string
	for id, a := range c.promises() {
		r := records[id]
		switch {
		case r == nil:
			missing = append(missing, fmt.Sprintf("%s of %s, asked at %v", id, a.user.name, a.began.Format("15:04:05.000")))
		case tokensOf(r) != a.consumed || r.Status != 200 || r.User != a.user.name || r.Stream != a.stream || r.Group != a.user.group || r.Estimated:
			wrong = append(wrong, fmt.Sprintf("%s: read %+v, on record %+v", id, a, r))
		}
	}
	if len(missing) > 0 {
		c.t.Errorf("%d answers have no record:%s", len(missing), gatewaytest.List(missing))
	}
	if len(wrong) > 0 {
		c.t.Errorf("%d answers have a record of something else:%s", len(wrong), gatewaytest.List(wrong))
	}
	if len(c.promises()) == 0 {
		c.t.Error("no answer was read whole")
	}
}

func balanceOf(t *testing.T, ledger billing.Cashier, p person) billing.Balance {
	t.Helper()
	balance, err := ledger.Balance(t.Context(), p.name)
	if err != nil {
		t.Fatalf("the balance of %s: %v", p.name, err)
	}
	return balance
}

// wantBalances: users have what the records that their balance paid have left.
func (c *clients) wantBalances(ledger billing.Cashier, records map[string]*billing.Record) {
	t := c.t
	t.Helper()
	charged := map[string]billing.USD{}
	for _, r := range records {
		if r.Billing == billing.PaidFromBalance {
			charged[r.User] += r.Charged
		}
	}
	for _, p := range people {
		left := balanceOf(t, ledger, p)
		opening := p.opening(t)
		if charged[p.name]+left.Amount != opening {
			t.Errorf("%s was charged %s and has %s left of %s", p.name, charged[p.name], left.Amount, opening)
		}
		if charged[p.name] == 0 && opening != 0 {
			t.Errorf("%s was charged nothing", p.name)
		}
		if c.solvent && left.Amount < 0 {
			t.Errorf("%s has %s, and everything that it takes was set aside before", p.name, left.Amount)
		}
	}
}

// wantWindows: in a subscription's windows is used what its records cost.
func wantWindows(t *testing.T, ledger billing.Cashier, records map[string]*billing.Record) {
	t.Helper()
	for _, p := range people {
		if p.group != plan {
			continue
		}
		subscription, err := ledger.Subscription(t.Context(), p.name, plan)
		if err != nil {
			t.Fatalf("the subscription of %s: %v", p.name, err)
		}
		for i, w := range subscription.Windows {
			var cost, all billing.USD
			for _, r := range records {
				if r.User != p.name || r.Billing != billing.PaidFromSubscription {
					continue
				}
				all += r.Cost
				if !r.Time.Before(w.Start) && r.Time.Before(w.End) {
					cost += r.Cost
				}
			}
			span := billing.Span(i)
			if w.Used != cost || span == billing.Monthly && cost != all || all == 0 {
				t.Errorf("the %s window of %s, from %v to %v, has %s used; its records cost %s, and all of them %s",
					span, p.name, w.Start, w.End, w.Used, cost, all)
			}
		}
	}
}

// wantUsage: the ledger's sum over all is that of its records.
func wantUsage(t *testing.T, ledger billing.Archive, records map[string]*billing.Record) {
	t.Helper()
	var want, got billing.UsageRow
	for _, r := range records {
		want.Add(r)
	}
	err := ledger.Usage(t.Context(), billing.RecordFilter{}, nil, func(row *billing.UsageRow) bool {
		got = *row
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("usage (-records +ledger):\n%s", diff)
	}
}

// wantEmbeddedBooks looks at the store of a gateway that has ended.
func (c *clients) wantEmbeddedBooks(dir string) {
	c.t.Helper()
	ledger, err := sqliteledger.Open(c.t.Context(), dir, sqliteledger.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.wantBooks(ledger, 0)
	if err := ledger.Close(); err != nil {
		c.t.Error(err)
	}
	db := openDatabase(c.t, dir)
	var verdict string
	if err := db.QueryRowContext(c.t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		c.t.Errorf("the integrity check of the database says %q, error %v", verdict, err)
	}
}

// openDatabase opens the database of an embedded store to look at, whether a
// gateway uses it or not.
func openDatabase(t *testing.T, dir string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "ledger.db")+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}
