package sqliteledger

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

// largestAmount bounds balances to about ±4.6 billion dollars, so that no sum
// over them can wrap around.
const largestAmount billing.USD = 1 << 62

var frames = sync.Pool{New: func() any { return new([]byte) }}

// Settle implements billing.Ledger. An error of the journal's sync, with
// Options.Sync, leaves the record settled for this process; settling it again
// tries the disk again.
func (l *Ledger) Settle(ctx context.Context, record *billing.Record) error {
	err := ctx.Err()
	if err == nil {
		err = l.settle(record)
	}
	if err != nil {
		return fmt.Errorf("settling record %q: %w", record.ID, err)
	}
	return nil
}

func (l *Ledger) settle(record *billing.Record) error {
	if err := record.Check(); err != nil {
		return err
	}
	buffer := frames.Get().(*[]byte)
	defer frames.Put(buffer)
	var err error
	if *buffer, err = journal.AppendFrame((*buffer)[:0], record); err != nil {
		return err
	}
	end, err := l.admit(record, *buffer)
	switch {
	case errors.Is(err, errFull):
		// The database is behind, or takes nothing at all.
		if err := l.flush(); err != nil {
			return err
		}
		return l.settle(record)
	case err != nil:
		return err
	case !l.sync:
		return nil
	}
	if err := end.Sync(); err != nil {
		return fmt.Errorf("syncing the journal in %s: %w", l.dir, err)
	}
	return nil
}

// errFull: maxPending records wait to be written to the database.
var errFull = errors.New("too many records wait for the database")

// admit appends the record to the journal and charges its user. It gives the
// record's end in the journal, or nothing where the database has it already.
func (l *Ledger) admit(r *billing.Record, frame []byte) (end journal.Position, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return end, billing.ErrClosed
	}
	if at, isPending := l.pending[r.ID]; isPending {
		return at, nil
	}
	settled, err := l.lookups.settled(r.ID)
	if err != nil {
		return end, fmt.Errorf("looking for it in the ledger in %s: %w", l.dir, err)
	}
	if settled {
		return end, nil
	}
	if len(l.pending) >= maxPending {
		return end, errFull
	}
	payer, err := l.payer(r)
	if err != nil {
		return end, err
	}
	if end, err = l.journal.Current.Append(frame); err != nil {
		return end, fmt.Errorf("writing to the journal in %s: %w", l.dir, err)
	}
	if payer != nil {
		payer.amount.Add(-int64(r.Charged))
	}
	l.pending[r.ID] = end
	l.queue = append(l.queue, *r)
	l.wake()
	return end, nil
}

// payer is whose balance the record takes from, nil for nobody's.
func (l *Ledger) payer(r *billing.Record) (*user, error) {
	if r.Billing != billing.PaidFromBalance {
		return nil, nil
	}
	u := l.user(r.User)
	if u == nil {
		return nil, fmt.Errorf("charging %q: %w", r.User, billing.ErrUnknownUser)
	}
	if amount := billing.USD(u.amount.Load()); amount.Plus(-r.Charged) < -largestAmount {
		return nil, fmt.Errorf("charging %q %s: their balance %s is at the end of what a ledger can hold",
			r.User, r.Charged, amount)
	}
	return u, nil
}
