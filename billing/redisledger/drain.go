package redisledger

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

// drainBatch is how many records of the spool are in memory, and in one round
// trip, at once.
const drainBatch = 128

// drain brings the spool's records to Redis, each once, until all are there or
// Redis fails.
func (l *Ledger) drain(ctx context.Context) error {
	s := l.spool
	s.draining.Lock()
	defer s.draining.Unlock()
	s.mu.Lock()
	own, closed := s.own, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return billing.ErrClosed
	case own == nil:
		return nil
	}
	if err := l.drainDirectory(ctx, own); err != nil {
		return err
	}
	for len(s.left) > 0 {
		if err := l.drainDirectory(ctx, s.left[0]); err != nil {
			return err
		}
		if err := s.left[0].close(); err != nil {
			return err
		}
		s.left = s.left[1:]
	}
	return nil
}

// drainDirectory drains one directory. draining is held.
func (l *Ledger) drainDirectory(ctx context.Context, d *directory) error {
	for {
		if err := l.drainOther(ctx, d); err != nil {
			return err
		}
		l.spool.mu.Lock()
		more := d.journal.Current.Size() > 0
		if more {
			d.journal.Swap()
		}
		l.spool.mu.Unlock()
		if !more {
			return l.drainRefused(ctx, d)
		}
	}
}

// drainOther drains the file that takes no new records, and empties it.
func (l *Ledger) drainOther(ctx context.Context, d *directory) error {
	f := d.journal.Other
	if f.Size() == 0 {
		return nil
	}
	for {
		records, end, err := f.Read(d.drained, drainBatch)
		if err != nil {
			return fmt.Errorf("reading %s: %w", d.path, err)
		}
		if len(records) == 0 {
			break
		}
		if err := l.bring(ctx, d, records); err != nil {
			return err
		}
		d.drained = end
	}
	if rest := f.Size() - d.drained; rest > 0 {
		l.log.Error("a part of the spool that was written can't be read, and is lost", "directory", d.path, "bytes", rest)
	}
	if err := f.Empty(); err != nil {
		return fmt.Errorf("emptying a journal in %s: %w", d.path, err)
	}
	d.drained = 0
	return nil
}

// bring settles records in Redis, and puts those aside that it refuses. After an
// error, it is to be called again.
func (l *Ledger) bring(ctx context.Context, d *directory, records []billing.Record) error {
	errs := l.settleAll(ctx, records)
	for i, err := range errs {
		if err == nil {
			l.cache.arrived(&records[i])
		}
	}
	for _, err := range errs {
		if err != nil && !isRefusal(err) {
			return err
		}
	}
	for i, err := range errs {
		if err == nil {
			continue
		}
		if err := l.putAside(d, &records[i], err); err != nil {
			return err
		}
		l.holds.end(records[i].ID)
		l.cache.arrived(&records[i])
	}
	return nil
}

// runScript is one of redis.Script's ways to run.
type runScript func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd

// settleAll settles records in one round trip, two where the server doesn't know
// the script yet, and gives what came of each.
func (l *Ledger) settleAll(ctx context.Context, records []billing.Record) []error {
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	for i := range records {
		l.cache.doubt(&records[i])
	}
	asked := l.cache.ask()
	cmds := make([]*redis.Cmd, len(records))
	send := func(run runScript) (unknown bool) {
		pipe := l.client.Pipeline()
		for i := range records {
			keys, args := l.settleArguments(&records[i])
			cmds[i] = run(bounded, pipe, keys, args...)
		}
		_, _ = pipe.Exec(bounded) // the first error of those that the commands have
		for _, cmd := range cmds {
			unknown = unknown || redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT")
		}
		return unknown
	}
	if send(settleScript.EvalSha) {
		send(settleScript.Eval) // what is settled already stays settled once
	}
	errs := make([]error, len(records))
	for i, cmd := range cmds {
		reply, err := cmd.Result()
		if l.note(ctx, err) == nil {
			err = l.settled(&records[i], asked, reply)
		}
		errs[i] = err
	}
	return errs
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

// drainRefused tries the refused records once more, and forgets them when Redis
// has all.
func (l *Ledger) drainRefused(ctx context.Context, d *directory) error {
	if !d.isRetryDue() {
		return nil
	}
	var refusal error
	count, refused := 0, 0
	for from := int64(0); ; {
		records, end, err := d.refused.Read(from, drainBatch)
		if err != nil {
			return fmt.Errorf("reading %s: %w", d.path, err)
		}
		if len(records) == 0 {
			break
		}
		for _, err := range l.settleAll(ctx, records) {
			switch {
			case err != nil && !isRefusal(err):
				d.retryRefused.Store(true)
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
	l.log.Info("Redis has taken the records of the spool that it had refused", "records", count, "directory", d.path)
	return d.refused.Empty()
}
