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
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

// largestAmount bounds balances to about ±4.6 billion dollars, so that no sum
// over them can wrap around.
const largestAmount billing.USD = 1 << 62

var frames = sync.Pool{New: func() any { return new([]byte) }}

// Settle implements billing.Ledger. An error of the journal's sync, with
// Options.Sync, leaves the record settled for this process; settling it again
// tries the disk again.
func (l *Ledger) Settle(ctx context.Context, record *billing.Record, _ roundtrip.Batch) error {
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
	r := &settled{Record: *record}
	end, err := l.admit(r, *buffer, l.mostWaiting)
	if errors.Is(err, errFull) {
		// The database is behind, or takes nothing at all.
		if err := l.makeRoom(); err != nil {
			return fmt.Errorf("%w: %w", billing.ErrUnwritable, err)
		}
		end, err = l.admit(r, *buffer, math.MaxInt) // not to wait again because others were quicker
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
	l.health.judge(l.crowded(), time.Now())
	return fmt.Errorf("%w: %w", billing.ErrUnwritable, err)
}

// errFull: too many records wait to be written to the database.
var errFull = errors.New("too many records wait for the database")

// admit settles a record that has not been settled. It gives the record's end in the
// journal, or nothing where the database has it already. errFull if most records wait
// for the database.
func (l *Ledger) admit(r *settled, frame []byte, most int) (end journal.Position, err error) {
	lane := l.lanes.locked()
	defer lane.mu.Unlock()
	payer, end, err := l.expect(&r.Record, most)
	if errors.Is(err, errSettled) {
		return end, nil
	}
	if err != nil {
		return end, err
	}
	return l.keep(lane, r, frame, payer)
}

// keep appends the record to the journal, ends its hold and takes what it spent.
func (l *Ledger) keep(on *lane, r *settled, frame []byte, payer *user) (end journal.Position, err error) {
	end, err = on.Current.Append(frame)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return end, l.journalFailed(fmt.Errorf("writing to the journal in %s: %w", l.dir, err))
	}
	if at, isWaiting := l.endOf(r.ID); isWaiting { // since expect, over another lane
		return at, nil
	}
	if payer != nil {
		payer.amount = payer.amount.Plus(-r.Charged)
	}
	l.endHold(r.ID)
	l.seen.add(r.ID)
	l.current.add(r, end)
	l.spend(r)
	l.wake()
	return end, nil
}

// errSettled: the record needs no settling.
var errSettled = errors.New("the record is settled")

// expect tells whose balance a record will take from, nil for nobody's; errSettled
// with where it ends in the journal if it has been settled, or why it can't be.
func (l *Ledger) expect(r *billing.Record, most int) (payer *user, end journal.Position, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return nil, end, billing.ErrClosed
	}
	end, isSettled := l.endOf(r.ID)
	if !isSettled && !l.seen.isNew(r.ID) {
		if isSettled, err = l.lookups.settled(r.ID); err != nil {
			return nil, end, fmt.Errorf("looking for it in the ledger in %s: %w", l.dir, err)
		}
	}
	if isSettled {
		l.endHold(r.ID)
		return nil, end, errSettled
	}
	if l.waiting() >= most {
		return nil, end, errFull
	}
	payer, err = l.payer(r)
	return payer, end, err
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
