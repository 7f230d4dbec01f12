package sqliteledger

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

func TestLedger(t *testing.T) {
	for _, sync := range []bool{false, true} {
		t.Run(fmt.Sprintf("sync=%v", sync), func(t *testing.T) {
			ledgertest.Run(t, func(t *testing.T) ledgertest.Open {
				dir := t.TempDir()
				return func(t *testing.T) billing.Ledger { return open(t, dir, Options{Sync: sync}) }
			})
		})
	}
}

func open(t testing.TB, dir string, opts Options) *Ledger {
	t.Helper()
	l, err := Open(context.Background(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestOpenMakesAPrivateDirectoryOfAnyName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "a b%41?c#d&e")
	l := open(t, dir, Options{})
	defer l.Close()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, want 0700", info.Mode())
	}
	if _, err := os.Stat(filepath.Join(dir, "ledger.db")); err != nil {
		t.Error(err)
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, Options{})
	_, err := Open(t.Context(), dir, Options{LockWait: 10 * time.Millisecond})
	wantHeld(t, err, dir)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir, Options{}).Close(); err != nil {
		t.Error(err)
	}
}

func wantHeld(t *testing.T, err error, dir string) {
	t.Helper()
	if err == nil {
		t.Fatal("the directory was opened twice")
	}
	for _, part := range []string{dir, "another process", "caddy reload"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	if _, err := l.writer.exec(t.Context(), "PRAGMA user_version = 1000"); err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err := Open(t.Context(), dir, Options{})
	if err == nil || !strings.Contains(err.Error(), "schema version 1000") || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v, want one that names schema version 1000 and %s", err, dir)
	}
}

// checkIdentity checks what must hold after any crash, in the database itself.
func checkIdentity(t rapid.TB, l *Ledger) {
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
		if kept, err := l.Balance(context.Background(), name); err != nil || kept.Amount != balance {
			t.Errorf("user %s: Balance %s, %v; the database has %s", name, kept.Amount, err, balance)
		}
	}
	if err := rows.Err(); err != nil {
		t.Error(err)
	}
}

// TestAnyHistory compares a ledger with a plain model of it.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "ledger")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		reopen := func() *Ledger {
			l, err := Open(context.Background(), dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := reopen()
		defer func() { l.Close() }()
		ctx := context.Background()
		user := rapid.SampledFrom([]string{"a", "b", "c"})
		balances := map[string]billing.Balance{}
		opened := map[string]bool{}
		settled := map[string]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"declare": func(t *rapid.T) {
				u := billing.User{Name: user.Draw(t, "user"), Unlimited: rapid.Bool().Draw(t, "unlimited")}
				u.Balance = billing.USD(rapid.Int64Range(-1e12, 1e12).Draw(t, "balance"))
				if err := l.Declare(ctx, []billing.User{u}); err != nil {
					t.Fatal(err)
				}
				b := balances[u.Name]
				b.Unlimited = u.Unlimited
				if !u.Unlimited && !opened[u.Name] {
					b.Amount += u.Balance
					opened[u.Name] = true
				}
				balances[u.Name] = b
			},
			"settle": func(t *rapid.T) {
				r := ledgertest.Example(fmt.Sprint(rapid.IntRange(1, 20).Draw(t, "id")))
				r.User, r.Charged = user.Draw(t, "user"), billing.USD(rapid.Int64Range(0, 1e12).Draw(t, "charged"))
				r.Billing = rapid.SampledFrom([]string{billing.PaidFromBalance, billing.PaidByNobody}).Draw(t, "billing")
				b, known := balances[r.User]
				paid := r.Billing == billing.PaidFromBalance
				err := l.Settle(ctx, r)
				if fails := paid && !known && !settled[r.ID]; fails != (err != nil) {
					t.Fatalf("Settle: %v", err)
				}
				if err == nil && !settled[r.ID] {
					settled[r.ID] = true
					if paid {
						b.Amount -= r.Charged
						balances[r.User] = b
					}
				}
			},
			"list": func(t *rapid.T) {
				n := 0
				if err := l.Records(ctx, billing.RecordFilter{}, func(*billing.Record) bool { n++; return true }); err != nil {
					t.Fatal(err)
				}
				if n != len(settled) {
					t.Fatalf("%d records, want %d", n, len(settled))
				}
			},
			"reopen": func(t *rapid.T) {
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				l = reopen()
				checkIdentity(t, l)
			},
			"": func(t *rapid.T) {
				for name, want := range balances {
					if got, err := l.Balance(ctx, name); err != nil || got != want {
						t.Fatalf("Balance(%s) = %+v, %v; want %+v", name, got, err, want)
					}
				}
			},
		})
	})
}

func TestDirectoryMayBeRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	l := open(t, "here", Options{})
	defer l.Close()
	if !filepath.IsAbs(l.dir) {
		t.Errorf("directory %s: it would follow a change of the working directory", l.dir)
	}
}
