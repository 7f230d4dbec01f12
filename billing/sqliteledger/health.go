package sqliteledger

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

const (
	// probeEvery and probeSize are how often a journal that took no record is tried,
	// and with how many bytes: what some requests in flight will need.
	probeEvery = time.Second
	probeSize  = 64 << 10
	// What the database does not take gathers in the journal. Hold refuses from
	// patience on, or when half as many records wait as may: the other half must do
	// for the requests in flight. While another program has the database locked,
	// nothing is broken, and it is the number alone that counts.
	patience = 10 * time.Second
)

// health is whether records can be kept. Guarded by Ledger.mu.
type health struct {
	dir string
	log *slog.Logger
	// journal and database are why they take no records; nil if they do.
	journal, database error
	isLocked          bool      // database: by another program
	probed            time.Time // the journal, at last
	since             time.Time // the database takes none
	unwritable        error     // what Hold answers
}

// check is an error if what is asked for now could not be recorded.
func (l *Ledger) check() error {
	h := &l.health
	if h.journal == nil && h.database == nil {
		return nil
	}
	now := time.Now()
	if h.journal != nil && now.Sub(h.probed) >= probeEvery {
		// Where none is free, those who write are about to tell.
		if shard := l.shards.tryLocked(); shard != nil {
			h.journalTook(shard.Current.Probe(probeSize, l.sync))
			shard.mu.Unlock()
		}
	}
	h.judge(l.crowded(), now)
	return h.unwritable
}

// crowded is whether what waits leaves room only for the requests in flight.
func (l *Ledger) crowded() bool {
	if l.health.isLocked {
		return l.waiting() > l.mostLocked-l.mostWaiting
	}
	return l.waiting() > l.mostWaiting/2
}

// journalTook is told how a write to the journal went. Where it went wrong, no
// record that happens to fit shows that it works again, but a probe.
func (h *health) journalTook(err error) {
	h.journal, h.probed = err, time.Now()
}

// flushed is told how writing to the database went.
func (h *health) flushed(err error) {
	now := time.Now()
	wasLocked := h.isLocked
	h.isLocked = isLocked(err)
	switch {
	case err != nil && (h.database == nil || h.isLocked != wasLocked):
		h.since = now
		h.log.Error("the ledger's database takes no records; they are safe in its journal, and tried again every second",
			"directory", h.dir, "error", err)
	case err == nil && h.database != nil:
		h.log.Info("the ledger's database takes records again", "directory", h.dir, "seconds", now.Sub(h.since).Seconds())
	}
	h.database = err
}

func (h *health) judge(isCrowded bool, now time.Time) {
	var cause error
	switch {
	case h.journal != nil:
		cause = fmt.Errorf("its journal: %w", h.journal)
	case h.isLocked && isCrowded:
		cause = fmt.Errorf("as many records wait in its journal as may: %w", h.database)
	case h.database != nil && !h.isLocked && (isCrowded || now.Sub(h.since) >= patience):
		cause = fmt.Errorf("its database: %w", h.database)
	}
	advice := "see whether the disk is full or broken"
	if h.journal == nil && h.isLocked {
		advice = "end the program that has locked its database"
	}
	was := h.unwritable
	h.unwritable = nil
	if cause != nil {
		h.unwritable = fmt.Errorf("%w: the directory %s: %w", billing.ErrUnwritable, h.dir, cause)
	}
	switch {
	case was == nil && cause != nil:
		h.log.Error("the ledger can't be written to, so no request that costs money is let through: "+
			advice+"; nothing that was settled is lost",
			"directory", h.dir, "error", cause)
	case was != nil && cause == nil:
		h.log.Info("the ledger can be written to again", "directory", h.dir)
	}
}
