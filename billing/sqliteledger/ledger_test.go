package sqliteledger

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

func TestLedger(t *testing.T) {
	for _, sync := range []bool{false, true} {
		t.Run(fmt.Sprintf("sync=%v", sync), func(t *testing.T) {
			ledgertest.Run(t, ledgertest.Harness{
				Fresh: func(t *testing.T, loc *time.Location, clock *ledgertest.Clock) ledgertest.Open {
					dir := t.TempDir()
					return func(t *testing.T) billing.Ledger {
						return open(t, dir, Options{Sync: sync, Location: loc, now: clock.Now})
					}
				},
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

func TestDirectoryMayBeRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	l := open(t, "here", Options{})
	defer l.Close()
	if !filepath.IsAbs(l.dir) {
		t.Errorf("directory %s: it would follow a change of the working directory", l.dir)
	}
}
