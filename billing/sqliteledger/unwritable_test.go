package sqliteledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

// lines keeps the messages of a log.
type lines struct {
	slog.Handler
	mu  sync.Mutex
	all []string
}

func newLines() *lines { return &lines{Handler: slog.DiscardHandler} }

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, r.Message)
	return nil
}

// count is how many messages hold a text.
func (l *lines) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (l *lines) wantOnce(t *testing.T, text string) {
	t.Helper()
	if n := l.count(text); n != 1 {
		t.Errorf("%q is in the log %d times, want once", text, n)
	}
}

func aliceRequest(id string) *billing.HoldRequest {
	return &billing.HoldRequest{ID: id, User: "alice", Amount: chargeOfChild, MinAvailable: chargeOfChild}
}

func wantHold(t *testing.T, l *Ledger, id string, want error) {
	t.Helper()
	if _, err := l.Hold(t.Context(), aliceRequest(id)); !errors.Is(err, want) {
		t.Errorf("Hold(%s): %v, want %v", id, err, want)
	}
}

// inBubble opens a ledger with alice in a synctest bubble.
func inBubble(t *testing.T, test func(t *testing.T, l *Ledger, log *lines)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log := newLines()
		l := open(t, dir, Options{Logger: slog.New(log)})
		if err := l.Declare(t.Context(), []billing.User{{Name: "alice", Balance: opening}}); err != nil {
			t.Fatal(err)
		}
		test(t, l, log)
		check(t, l)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// breakJournal makes the journal take nothing until the function is called.
func breakJournal(t *testing.T, l *Ledger) (mend func()) {
	t.Helper()
	broken, err := journal.OpenFile(filepath.Join(t.TempDir(), "closed"))
	if err != nil {
		t.Fatal(err)
	}
	broken.Close()
	l.shards.lock()
	defer l.shards.unlock()
	var writable []*journal.File
	for _, shard := range l.shards {
		writable = append(writable, shard.Current)
		shard.Current = broken
	}
	return func() {
		l.shards.lock()
		defer l.shards.unlock()
		for i, shard := range l.shards {
			shard.Current = writable[i]
		}
	}
}

// TestHoldWhileTheJournalTakesNothing: from the first record that could not be kept
// on nothing is let through, until a probe succeeds.
func TestHoldWhileTheJournalTakesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, l *Ledger, log *lines) {
		wantHold(t, l, "a", nil)
		mend := breakJournal(t, l)
		wantHold(t, l, "b", nil) // nobody knows yet
		if err := l.Settle(t.Context(), childRecord("a"), nil); !errors.Is(err, billing.ErrUnwritable) {
			t.Errorf("Settle: %v, want ErrUnwritable", err)
		}
		for i := range 5 {
			wantHold(t, l, fmt.Sprint("refused", i), billing.ErrUnwritable)
			time.Sleep(700 * time.Millisecond)
		}
		log.wantOnce(t, "can't be written to")
		wantHold(t, l, "b", nil) // it holds already
		balance, err := l.Balance(t.Context(), "alice")
		if want := (billing.Balance{Amount: opening, Held: 2 * chargeOfChild}); err != nil || balance != want {
			t.Errorf("balance %+v, %v; want %+v", balance, err, want)
		}

		time.Sleep(probeEvery)
		wantHold(t, l, "c", billing.ErrUnwritable) // a probe
		mend()
		wantHold(t, l, "c", billing.ErrUnwritable) // too early for the next
		if err := l.Settle(t.Context(), childRecord("a"), nil); err != nil {
			t.Errorf("settling again: %v", err)
		}
		wantHold(t, l, "c", billing.ErrUnwritable) // it may have been the last that fits
		time.Sleep(probeEvery)
		wantHold(t, l, "c", nil)
		log.wantOnce(t, "can't be written to")
		log.wantOnce(t, "can be written to again")
		wantSettled(t, l, 1)
	})
}

// TestHoldWhileTheDatabaseTakesNothing: the journal has room for a while.
func TestHoldWhileTheDatabaseTakesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, l *Ledger, log *lines) {
		l.mostWaiting = 1000
		limitDatabase(t, l, 1)
		settle := func(from, to int) {
			for i := from; i < to; i++ {
				if err := l.Settle(t.Context(), childRecord(fmt.Sprintf("%06d", i)), nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		settle(0, 200)
		time.Sleep(flushEvery + time.Second)
		wantHold(t, l, "a", nil)
		time.Sleep(patience)
		wantHold(t, l, "b", billing.ErrUnwritable)
		settle(200, 300) // those in flight
		time.Sleep(5 * time.Second)
		wantHold(t, l, "b", billing.ErrUnwritable)
		log.wantOnce(t, "database takes no records")
		log.wantOnce(t, "can't be written to")

		limitDatabase(t, l, 1<<30)
		time.Sleep(2 * time.Second) // it is tried again
		wantHold(t, l, "b", nil)
		log.wantOnce(t, "database takes records again")
		log.wantOnce(t, "can be written to again")

		limitDatabase(t, l, 1)
		settle(300, 801)
		time.Sleep(flushEvery + time.Second)
		wantHold(t, l, "c", billing.ErrUnwritable) // there must be room for those in flight
		settle(801, 1300)
		if err := l.Settle(t.Context(), childRecord("one too many"), nil); !errors.Is(err, billing.ErrUnwritable) {
			t.Errorf("Settle: %v, want ErrUnwritable", err)
		}
		limitDatabase(t, l, 1<<30)
		time.Sleep(2 * time.Second)
		wantHold(t, l, "c", nil)
		wantSettled(t, l, 1300)
	})
}
