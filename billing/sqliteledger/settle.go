package sqliteledger

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

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
	end, err := l.admit(record, *buffer, maxPending)
	if errors.Is(err, errFull) {
		// The database is behind, or takes nothing at all.
		if err := l.makeRoom(); err != nil {
			return fmt.Errorf("%w: %w", billing.ErrUnwritable, err)
		}
		end, err = l.admit(record, *buffer, math.MaxInt) // not to wait again because others were quicker
	}
	if err != nil || !l.sync {
		return err
	}
	if err := end.Sync(); err != nil {
		err = fmt.Errorf("syncing the journal in %s: %w", l.dir, err)
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.journalFailed(err)
	}
	return nil
}

// journalFailed makes Hold refuse what could not be recorded, and gives the error
// of that.
func (l *Ledger) journalFailed(err error) error {
	l.health.journalTook(err)
	l.health.judge(len(l.pending), time.Now())
	return fmt.Errorf("%w: %w", billing.ErrUnwritable, err)
}

// errFull: too many records wait to be written to the database.
var errFull = errors.New("too many records wait for the database")

// admit appends the record to the journal, ends its hold and takes what it spent.
// It gives the record's end in the journal, or nothing where the database has it
// already. errFull if most records wait for the database.
func (l *Ledger) admit(r *billing.Record, frame []byte, most int) (end journal.Position, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return end, billing.ErrClosed
	}
	if at, isPending := l.pending[r.ID]; isPending {
		l.endHold(r.ID)
		return at, nil
	}
	isSettled, err := l.lookups.settled(r.ID)
	if err != nil {
		return end, fmt.Errorf("looking for it in the ledger in %s: %w", l.dir, err)
	}
	if isSettled {
		l.endHold(r.ID)
		return end, nil
	}
	if len(l.pending) >= most {
		return end, errFull
	}
	payer, err := l.payer(r)
	if err != nil {
		return end, err
	}
	if end, err = l.journal.Current.Append(frame); err != nil {
		return end, l.journalFailed(fmt.Errorf("writing to the journal in %s: %w", l.dir, err))
	}
	if payer != nil {
		payer.amount -= r.Charged
	}
	l.endHold(r.ID)
	l.pending[r.ID] = end
	l.queue = append(l.queue, settled{Record: *r})
	l.spend(&l.queue[len(l.queue)-1])
	l.wake()
	return end, nil
}

// spend counts the record in its windows.
func (l *Ledger) spend(r *settled) {
	r.subscription, r.key = l.people.spendsFrom(&r.Record)
	if s := r.subscription; s != nil {
		s.windows.Add(r.Time, r.Spent(), l.location)
	}
	if k := r.key; k != nil {
		if k.isLimited() {
			k.windows.Add(r.Time, r.Spent(), l.location)
		}
		if r.Time.After(k.LastUsed) {
			k.LastUsed = r.Time.UTC()
		}
	}
}

// payer is whose balance the record takes from, nil for nobody's.
func (l *Ledger) payer(r *billing.Record) (*user, error) {
	if r.Billing != billing.PaidFromBalance {
		return nil, nil
	}
	u := l.people.users[r.User]
	if u == nil {
		return nil, fmt.Errorf("charging %q: %w", r.User, billing.ErrUnknownUser)
	}
	if u.amount.Plus(-r.Charged) < -largestAmount {
		return nil, fmt.Errorf("charging %q %s: their balance %s is at the end of what a ledger can hold",
			r.User, r.Charged, u.amount)
	}
	return u, nil
}
