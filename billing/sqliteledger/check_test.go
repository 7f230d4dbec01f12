package sqliteledger

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/billing"
)

// check checks what must hold after any crash: the database is whole, what its
// tables say of each other is true, and memory agrees with it.
func check(t rapid.TB, l *Ledger) {
	t.Helper()
	if err := l.flush(); err != nil {
		t.Fatal(err)
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	row, err := l.writer.exec(context.Background(), "PRAGMA integrity_check")
	if err != nil || row[0] != "ok" {
		t.Errorf("integrity_check: %v, %v", row, err)
	}
	stored := &Ledger{reader: l.reader, location: l.location, settling: l.settling}
	if err := stored.load(context.Background()); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.current.records) > 0 {
		t.Fatalf("somebody settles meanwhile")
	}
	if diff := cmp.Diff(portrait(&stored.directory), portrait(&l.directory)); diff != "" {
		t.Errorf("memory differs from the database (-database +memory):\n%s", diff)
	}
	for _, s := range l.directory.subscriptions {
		if s.windows != s.stored {
			t.Errorf("windows of %v: %v; stored %v", s.membership, s.windows, s.stored)
		}
	}
	for _, k := range l.directory.keys {
		if k.windows != k.stored {
			t.Errorf("windows of key %s: %v; stored %v", k.ID, k.windows, k.stored)
		}
	}
	checkBalances(t, l)
	for _, table := range []rollup{usageTable, byUserTable} {
		checkRollup(t, l, table)
	}
}

// portrait is all that a database keeps of users and keys.
func portrait(p *directory) map[string]any {
	all := make(map[string]any)
	for name, u := range p.users {
		all["user "+name] = []any{u.number, u.source, u.amount, u.concurrency, u.disabled, u.isRemoved}
	}
	for id, k := range p.keys {
		all["key "+id] = []any{k.Key, k.windows}
	}
	for of, s := range p.subscriptions {
		if s.subscribed || s.windows != (billing.Windows{}) {
			all[fmt.Sprintf("subscription %q", of)] = []any{s.subscribed, s.until, s.windows}
		}
	}
	return all
}

// checkBalances checks Σ credits − Σ charged = balance.
func checkBalances(t rapid.TB, l *Ledger) {
	t.Helper()
	rows, err := l.reader.Query(`SELECT name, balance,
		(SELECT coalesce(sum(amount), 0) FROM credits WHERE user = name),
		(SELECT coalesce(sum(charged), 0) FROM records WHERE user = name AND billing = 'balance')
		FROM users`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var balance, credited, charged billing.USD
		if err := rows.Scan(&name, &balance, &credited, &charged); err != nil {
			t.Fatal(err)
		}
		if charged != credited-balance {
			t.Errorf("user %s: charged %s, credited %s, balance %s", name, charged, credited, balance)
		}
	}
	if err := rows.Err(); err != nil {
		t.Error(err)
	}
}

// checkRollup sums up all records again.
func checkRollup(t rapid.TB, l *Ledger, table rollup) {
	t.Helper()
	names := strings.Join(table.names, ", ")
	days := []string{"(0, 1, 0)"}
	for from, ok := int64(math.MinInt64), true; ok; {
		var first sql.NullInt64
		if err := l.reader.QueryRow("SELECT min(time) FROM records WHERE time >= ?", from).Scan(&first); err != nil {
			t.Fatal(err)
		}
		day := l.days.dayOf(first.Int64)
		if first.Valid {
			days = append(days, fmt.Sprintf("(%d, %d, %d)", day, first.Int64, l.days.end(day)))
		}
		from = l.days.end(day) + 1
		ok = first.Valid && from > first.Int64 // it wraps around at the last of times
	}
	again := readRows(t, l, fmt.Sprintf(`WITH days(day, first, last) AS (VALUES %s)
		SELECT day, %s, count(*), %s FROM records JOIN days ON time BETWEEN first AND last GROUP BY day, %[2]s`,
		strings.Join(days, ", "), names, sums("", sumColumns[1:]...)), 1+len(table.names))
	kept := readRows(t, l, "SELECT "+table.columnList()+" FROM "+table.name, 1+len(table.names))
	if diff := cmp.Diff(again, kept); diff != "" {
		t.Errorf("%s (-records +table):\n%s", table.name, diff)
	}
}

// readRows gives the rows by their first columns, each as text.
func readRows(t rapid.TB, l *Ledger, query string, keys int) map[string]string {
	t.Helper()
	rows, err := l.reader.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for rows.Next() {
		values := make([]any, len(names))
		targets := make([]any, len(names))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			t.Fatal(err)
		}
		all[fmt.Sprintf("%q", values[:keys])] = fmt.Sprint(values[keys:]...)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// checkWindows counts all records again, in the order in which they were settled:
// for histories without an end of a key or a subscription.
func checkWindows(t rapid.TB, l *Ledger) {
	t.Helper()
	rows, err := l.reader.Query(`SELECT time, user, "group", key_id, billing, cost, charged FROM records ORDER BY rowid`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	subscriptions, keys := map[membership]*billing.Windows{}, map[string]*billing.Windows{}
	for rows.Next() {
		var nanos int64
		var r billing.Record
		if err := rows.Scan(&nanos, &r.User, &r.Group, &r.KeyID, &r.Billing, (*int64)(&r.Cost), (*int64)(&r.Charged)); err != nil {
			t.Fatal(err)
		}
		of := membership{r.User, r.Group}
		if subscriptions[of] == nil {
			subscriptions[of] = new(billing.Windows)
		}
		if keys[r.KeyID] == nil {
			keys[r.KeyID] = new(billing.Windows)
		}
		if r.Billing == billing.PaidFromSubscription {
			subscriptions[of].Add(time.Unix(0, nanos), r.Spent(), l.location)
		}
		keys[r.KeyID].Add(time.Unix(0, nanos), r.Spent(), l.location)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for of, want := range subscriptions {
		if got := l.directory.subscription(of).windows; got != *want {
			t.Errorf("windows of %v: %v, want %v", of, got, *want)
		}
	}
	for _, k := range l.directory.keys {
		if want := keys[k.ID]; k.isLimited() && want != nil && k.windows != *want {
			t.Errorf("windows of key %s: %v, want %v", k.ID, k.windows, *want)
		}
	}
}
