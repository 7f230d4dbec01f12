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
	shard := l.shards.locked()
	defer shard.mu.Unlock()
	end, err = l.expect(r, most)
	if errors.Is(err, errSettled) {
		return end, nil
	}
	if err != nil {
		return end, err
	}
	return l.keep(shard, r, frame)
}

// keep appends the record to the journal, ends its hold and takes what it spent.
func (l *Ledger) keep(on *shard, r *settled, frame []byte) (end journal.Position, err error) {
	end, err = on.Current.Append(frame)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return end, l.journalFailed(fmt.Errorf("writing to the journal in %s: %w", l.dir, err))
	}
	if at, isWaiting := l.endOf(r.ID); isWaiting { // since expect, over another shard
		return at, nil
	}
	r.charge()
	l.endHold(r.ID)
	l.seen.add(r.ID)
	l.enter(r)
	l.current.add(r, end)
	l.wake()
	return end, nil
}

// errSettled: the record needs no settling.
var errSettled = errors.New("the record is settled")

// expect finds whose a record is; errSettled with where it ends in the journal if it
// has been settled, or why it can't be.
func (l *Ledger) expect(r *settled, most int) (end journal.Position, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return end, billing.ErrClosed
	}
	end, isSettled := l.endOf(r.ID)
	if !isSettled && !l.seen.isNew(r.ID) {
		if isSettled, err = l.lookups.settled(r.ID); err != nil {
			return end, fmt.Errorf("looking for it in the ledger in %s: %w", l.dir, err)
		}
	}
	if isSettled {
		l.endHold(r.ID)
		return end, errSettled
	}
	if l.waiting() >= most {
		return end, errFull
	}
	r.owner, r.isGone = l.directory.owner(&r.Record)
	if r.Billing == billing.PaidFromBalance {
		err = r.chargeable()
	}
	return end, err
}

// chargeable is why the balance of the record's owner can't pay it.
func (r *settled) chargeable() error {
	switch u := r.owner; {
	case u == nil && !r.isGone:
		return fmt.Errorf("charging %q: %w", r.User, billing.ErrUnknownUser)
	case u != nil && u.amount.Plus(-r.Charged) < -largestAmount:
		return fmt.Errorf("charging %q %s: their balance %s is at the end of what a ledger can hold",
			r.User, r.Charged, u.amount)
	}
	return nil
}

// charge takes what the record charges from its owner's balance, if that pays.
func (r *settled) charge() {
	if r.Billing == billing.PaidFromBalance && r.owner != nil {
		r.owner.amount = r.owner.amount.Plus(-r.Charged)
	}
}

// enter gives a record its time of settling, later than that of all before it, and
// counts it in its windows.
func (l *Ledger) enter(r *settled) {
	now := l.now()
	at := billing.CountedAt(r.Time, now)
	r.now, r.at = now.UnixNano(), billing.UnixNano(at)
	l.settled = max(l.settled+1, r.now)
	r.Settled = time.Unix(0, l.settled)
	r.subscription, r.key = l.directory.spendsFrom(r)
	if s := r.subscription; s != nil {
		r.countIn(&s.windows, l.location)
	}
	if k := r.key; k != nil {
		if k.isLimited() {
			r.countIn(&k.windows, l.location)
		}
		if at.After(k.LastUsed) || k.LastUsed.After(now.Round(0)) {
			k.LastUsed = at.UTC()
		}
		r.lastUsed = nanosOf(k.LastUsed)
	}
}
