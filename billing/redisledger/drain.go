package redisledger

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

// drainBatch is how many records of the spool are in memory, and in one round
// trip, at once.
const drainBatch = 128

// drain brings Redis the spool's records that it may lack, each once, until it has all
// or is down.
func (l *Ledger) drain(ctx context.Context) error {
	s := l.spool
	s.draining.Lock()
	defer s.draining.Unlock()
	s.mu.Lock()
	directories, closed := s.directories(), s.closed
	s.mu.Unlock()
	if closed {
		return billing.ErrClosed
	}
	for _, d := range directories {
		for _, f := range d.files() {
			if err := l.drainFile(ctx, d, f); err != nil {
				return err
			}
		}
	}
	hasRefused := func(d *directory) bool { return d.refused.Size() > 0 }
	if !slices.ContainsFunc(directories, hasRefused) {
		return nil
	}
	retryRefused := l.retryRefused.Swap(false)
	for _, d := range directories {
		if !hasRefused(d) || !retryRefused && time.Now().Before(d.retryAt) {
			continue
		}
		if err := l.drainRefused(ctx, d); err != nil {
			l.retryRefused.Store(true)
			return err
		}
	}
	return nil
}

// drainFile drains one file. draining is held.
func (l *Ledger) drainFile(ctx context.Context, d *directory, f *spoolFile) error {
	isNew := 0
	for {
		l.spool.mu.Lock()
		from, until, inherited := f.missing, f.until, f.inherited
		f.missing = -1 // what fails meanwhile says so again
		l.spool.mu.Unlock()
		if from < 0 {
			break
		}
		for from < until {
			records, end, err := f.Read(from, until, drainBatch)
			if err == nil && len(records) == 0 {
				l.log.Error("a part of the spool that was written can't be read, and is lost", "directory", d.path, "bytes", until-from)
				break
			}
			n := 0
			if err == nil {
				n, err = l.bring(ctx, d, records, from < inherited)
			}
			if err != nil {
				l.spool.mu.Lock()
				defer l.spool.mu.Unlock()
				f.miss(from, until)
				return fmt.Errorf("bringing Redis the records of %s: %w", d.path, err)
			}
			from, isNew = end, isNew+n
		}
		if f == d.other || d != l.spool.own { // it stays for a minute from now
			l.spool.mu.Lock()
			d.begun = time.Now()
			l.spool.mu.Unlock()
		}
	}
	if isNew > 0 {
		l.log.Info("Redis has taken records that waited in the spool", "records", isNew, "directory", d.path)
	}
	return nil
}

// bring settles records in Redis, which may have had them once, and puts those aside
// that it refuses. After an error, it is to be called again.
func (l *Ledger) bring(ctx context.Context, d *directory, records []billing.Record, wasThere bool) (isNew int, err error) {
	errs, isNew := l.settleAll(ctx, records, wasThere)
	for i, err := range errs {
		switch {
		case err == nil:
		case !isRefusal(err):
			return isNew, err
		default:
			if err := l.putAside(d, &records[i], err); err != nil {
				return isNew, err
			}
			l.holds.end(records[i].ID)
		}
		l.snapshot.have(&records[i])
	}
	return isNew, nil
}

// putAside keeps a record that Redis refuses apart from those that wait.
func (l *Ledger) putAside(d *directory, r *billing.Record, why error) error {
	frame, err := journal.AppendFrame(nil, r)
	if err != nil {
		return err
	}
	position, err := d.refused.Append(frame)
	if err == nil && l.spool.sync {
		err = position.Sync()
	}
	if err != nil {
		return fmt.Errorf("putting a refused record aside in %s: %w", d.path, err)
	}
	d.postpone(leastRetryWait)
	l.log.Error("Redis refuses a record that waited in the spool; it is put aside, and tried again less and less often",
		"record", r.ID, "user", r.User, "charged_usd", r.Charged.String(), "error", why, "file", filepath.Join(d.path, refusedName))
	return nil
}

// postpone sets when Redis is asked again for the records that it refused.
func (d *directory) postpone(wait time.Duration) {
	d.retryWait = min(wait, mostRetryWait)
	d.retryAt = time.Now().Add(d.retryWait)
}

// drainRefused tries the refused records once more, and forgets them when Redis
// has all.
func (l *Ledger) drainRefused(ctx context.Context, d *directory) error {
	var refusal error
	count, refused := 0, 0
	for from := int64(0); ; {
		records, end, err := d.refused.Read(from, d.refused.Size(), drainBatch)
		if err != nil {
			return fmt.Errorf("reading %s: %w", d.path, err)
		}
		if len(records) == 0 {
			break
		}
		errs, _ := l.settleAll(ctx, records, false)
		for _, err := range errs {
			switch {
			case err != nil && !isRefusal(err):
				return err
			case err != nil:
				refusal = err
				refused++
			}
		}
		count, from = count+len(records), end
	}
	if refused > 0 {
		d.postpone(max(2*d.retryWait, leastRetryWait))
		l.log.Warn("Redis still refuses records of the spool", "refused", refused, "of", count, "error", refusal,
			"file", filepath.Join(d.path, refusedName))
		return nil
	}
	if err := l.spool.keepRefused(d); err != nil {
		return fmt.Errorf("keeping what Redis has taken of %s: %w", d.path, err)
	}
	l.log.Info("Redis has taken the records of the spool that it had refused", "records", count, "directory", d.path)
	return nil
}

// keepRefused has the records that Redis had refused stay for as long as all that it has
// taken. draining is held.
func (s *spool) keepRefused(d *directory) error {
	for from := int64(0); ; {
		records, end, err := d.refused.Read(from, d.refused.Size(), drainBatch)
		if err != nil {
			return err
		}
		if len(records) == 0 {
			return d.refused.Empty()
		}
		for i := range records {
			if _, err := s.keep(&records[i]); err != nil {
				return err
			}
		}
		from = end
	}
}
