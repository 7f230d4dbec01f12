package sqliteledger

import (
	"fmt"
	"math"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

// takeOver settles in memory what an earlier process left in the journal, and writes
// it to the database. Where another program has locked that, all of it waits, as what
// is settled from now on does.
func (l *Ledger) takeOver() error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	currents, others, err := l.shards.resume()
	if err != nil {
		return err
	}
	for _, f := range others {
		if err := l.takeOverFile(f, l.taken); err != nil {
			return err
		}
	}
	for _, f := range currents {
		if err := l.takeOverFile(f, l.current); err != nil {
			return err
		}
	}
	err = l.flushAndTell()
	if isLocked(err) {
		l.flushLater()
		return nil
	}
	return err
}

// takeOverFile does so with the records of one file.
func (l *Ledger) takeOverFile(f *journal.File, into *pending) error {
	if f.Size() == 0 {
		return nil
	}
	records, end, err := f.Read(0, f.Size(), math.MaxInt)
	if err != nil {
		return fmt.Errorf("reading the journal: %w", err)
	}
	l.log.Info("taking over the records that the last process had not yet written to the ledger's database",
		"directory", l.dir, "records", len(records), "bytes_of_unfinished_record", f.Size()-end)
	if err := f.Cut(end); err != nil {
		return fmt.Errorf("cutting off an unfinished record of the journal: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range records {
		r := &settled{Record: records[i]}
		_, isWaiting := l.endOf(r.ID)
		if !isWaiting && !l.seen.isNew(r.ID) {
			if isWaiting, err = l.lookups.settled(r.ID); err != nil {
				return fmt.Errorf("looking for record %q: %w", r.ID, err)
			}
		}
		if isWaiting {
			continue
		}
		l.directory.meetPayer(r)
		l.seen.add(r.ID)
		l.enter(r)
		into.add(r, f.End())
	}
	return nil
}

// meetPayer finds whose a record is, and takes it from his balance if that paid. He may
// be missing where a power failure cost the database more than the journal.
func (p *directory) meetPayer(r *settled) {
	if r.Billing == billing.PaidFromBalance && p.users[r.User] == nil {
		u := p.meet(r.User)
		u.source, u.number = billing.SourceConfig, max(r.UserNumber, 1)
	}
	r.owner, r.isGone = p.owner(&r.Record)
	r.charge()
}
