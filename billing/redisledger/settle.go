package redisledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

var (
	errSpent = errors.New("the balance is at the end of what a ledger can hold")
)

// frames are buffers for what the spool and Redis have of a record.
var frames = sync.Pool{New: func() any { return new([]byte) }}

// clockError: by Redis's clock the request came on another day than was thought.
type clockError struct{ at time.Time }

func (e *clockError) Error() string {
	return "the clocks of Redis and of this machine run apart: by that of Redis the request came at " + e.at.UTC().Format(time.RFC3339)
}

// Settle implements billing.Ledger. The record is in the spool before Redis is asked,
// and stays there for a minute after Redis has taken it. When Redis doesn't take it, or
// is down, that is no error.
func (l *Ledger) Settle(ctx context.Context, record *billing.Record, along roundtrip.Batch) error {
	err := ctx.Err()
	if err == nil {
		err = l.settle(ctx, record, along)
	}
	if err != nil {
		return fmt.Errorf("settling record %q: %w", record.ID, err)
	}
	return nil
}

func (l *Ledger) settle(ctx context.Context, r *billing.Record, along roundtrip.Batch) error {
	if err := r.Check(); err != nil {
		return err
	}
	if r.Spent() > largestAmount {
		return fmt.Errorf("it charges %s, the limit is %s", r.Spent(), largestAmount)
	}
	l.settling.RLock()
	defer l.settling.RUnlock()
	if l.closed.Load() {
		return billing.ErrClosed
	}
	frame := frames.Get().(*[]byte)
	defer frames.Put(frame)
	var place place
	var spoolErr error
	if *frame, spoolErr = journal.AppendFrame((*frame)[:0], r); spoolErr == nil {
		place, spoolErr = l.spool.keepFrame(*frame)
	}
	err := l.link.Down()
	if err == nil {
		encoded := journal.Payload(*frame)
		if err = l.submit(ctx, r, encoded, false, along); l.declareAgain(ctx, r.User, err) {
			err = l.submit(ctx, r, encoded, false, nil)
		}
	}
	if err == nil {
		return nil
	}
	if isFinal(err) && (errors.Is(err, errSpent) || !l.declared.has(r.User)) { // Redis is told of those again
		l.spool.undo(place)
		return err
	}
	if spoolErr == nil {
		spoolErr = l.spool.miss(place, r)
	}
	if spoolErr != nil {
		return fmt.Errorf("%w: not taken by Redis: %w; nor by the spool %s: %w", billing.ErrUnwritable, err, l.spool.dir, spoolErr)
	}
	l.Release(ctx, r.ID)
	l.wakeDrain()
	return nil
}

// submit settles a record in Redis, as journal.Encode has it.
func (l *Ledger) submit(ctx context.Context, r *billing.Record, encoded []byte, wasThere bool, along roundtrip.Batch) (err error) {
	var clock *clockError
	at := l.cameAt(r)
	for range 3 { // the first time, the clock of Redis may not be known
		asked := l.count.ask()
		keys, args := l.settleArguments(r, encoded, at, wasThere)
		answer, runErr := l.link.RunAlong(ctx, redislink.Guard{}, along, settleScript, keys, args...)
		if runErr != nil {
			return runErr
		}
		if _, err = l.settled(r, asked, answer); !errors.As(err, &clock) {
			return err
		}
		along, at = nil, clock.at
	}
	return err
}

// cameAt is when a request came, by Redis's clock as far as it is known. While its
// process lives, that does not depend on what the process's clock shows.
func (l *Ledger) cameAt(r *billing.Record) time.Time {
	now := l.clock()
	return billing.CountedAt(r.Time, now).Add(l.snapshot.now().Sub(now))
}

// settleArguments are settle.lua's, for a request that came at a time by Redis's clock;
// wasThere: Redis may have had the record from an earlier process.
func (l *Ledger) settleArguments(r *billing.Record, encoded []byte, at time.Time, wasThere bool) (keys []string, args []any) {
	day, age := day(r.Time), max(l.clock().Sub(r.Time), 0)
	keys = append(make([]string, 0, 17),
		l.userKey(r.User), l.daysKey(), l.recordsKey(day), l.indexKey(day),
		l.key(keyBudget(r.KeyID)), l.key(subscriptionBudget(r.User, r.Group)), l.subscriptionsKey(r.User),
		l.countKey(), l.prefix+"settled:last", l.settledKey(""), l.prefix+"pruned",
	)
	change := ""
	if r.Billing == billing.PaidFromBalance {
		change = strconv.FormatInt(-int64(r.Charged), 10)
	}
	args = append(make([]any, 0, 16),
		r.ID, encoded, stamp(r.Time)+r.ID, day, change, int64(r.Spent()), (age + time.Microsecond - 1).Microseconds(),
	)
	args = append(args, l.bounds.arguments(at, l.location)...)
	args = append(args, r.Group, digit(r.Billing == billing.PaidFromSubscription))
	h, isThere := l.holds.find(r.ID)
	since := any("")
	if wasThere {
		since = r.Time.Unix()
	}
	if args = append(args, h.member(), l.count.lastSettled(), r.UserNumber, since); isThere {
		for _, b := range h.budgets {
			keys = append(keys, l.key(b), l.holdsKey(b))
		}
	}
	return keys, args
}

// settled takes in settle.lua's answer; isNew: Redis did not have the record before.
func (l *Ledger) settled(r *billing.Record, asked count, answer any) (isNew bool, err error) {
	a := newReply(answer, 5)
	did, counted, settledAt := a.text(0), a.number(2), a.number(3)
	u, known, userErr := parseUser(a.list[1])
	if a.err != nil {
		return false, a.err
	}
	l.snapshot.learnTime(a.micros(4))
	if did == "clock" {
		err, settledAt = &clockError{time.UnixMicro(settledAt)}, 0
	}
	lost, isOld := l.count.learn(asked, counted, settledAt)
	if lost > 0 {
		l.wentBack(lost)
	}
	switch did {
	case "unknown user":
		return false, fmt.Errorf("charging %q: %w", r.User, billing.ErrUnknownUser)
	case "spent":
		return false, fmt.Errorf("charging %q %s: %w", r.User, r.Charged, errSpent)
	case "clock":
		return false, err
	case "deleted":
		l.log.Error("a record that an earlier process left in the spool is of a day that was deleted since; it is taken to have been settled before that",
			"record", r.ID, "time", r.Time, "user", r.User, "charged_usd", r.Charged.String())
	}
	isNew = did == "kept"
	if isNew && r.Billing == billing.PaidFromBalance && (r.UserNumber == 0 || r.UserNumber == u.number) {
		u.Amount = u.Amount.Plus(-r.Charged)
		u.version++
	}
	l.snapshot.learnSettled(r, u, known && userErr == nil && !isOld, isNew)
	l.holds.end(r.ID) // once the charge counts
	return isNew, nil
}

// isFinal reports whether Redis will not take a record later either.
func isFinal(err error) bool {
	return errors.Is(err, billing.ErrUnknownUser) || errors.Is(err, errSpent)
}

// isRefusal reports whether an error is about one record, or the keys that it goes to,
// and not about all.
func isRefusal(err error) bool {
	return isFinal(err) || strings.Contains(err.Error(), "WRONGTYPE") || strings.Contains(err.Error(), "not an integer")
}

// settleAll settles records, and what else is in the spool, in one round trip, two
// where the server doesn't know the script yet. It returns what came of each, and how
// many Redis did not have.
func (l *Ledger) settleAll(ctx context.Context, records []billing.Record, wasThere bool) (errs []error, isNew int) {
	asked := l.count.ask()
	cmds := make([]*redis.Cmd, len(records))
	send := func(run func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd) error {
		return l.link.Exec(ctx, redislink.Guard{}, nil, func(pipe redis.Pipeliner) {
			for i := range records {
				if isSettled(&records[i]) {
					keys, args := l.settleArguments(&records[i], journal.Encode(nil, &records[i]), l.cameAt(&records[i]), wasThere)
					cmds[i] = run(ctx, pipe, keys, args...)
				}
			}
		})
	}
	errs = make([]error, len(records))
	err := send(settleScript.EvalSha)
	if err == nil && hasNoScript(cmds) {
		err = send(settleScript.Eval) // what is settled already stays settled once
	}
	for i := range records {
		did, oneErr := false, err
		switch {
		case err != nil:
		case cmds[i] == nil:
			did, oneErr = l.changeAgain(ctx, &records[i])
		default:
			var answer any
			if answer, oneErr = cmds[i].Result(); oneErr == nil {
				did, oneErr = l.settled(&records[i], asked, answer)
			}
			if clock := (*clockError)(nil); errors.As(oneErr, &clock) {
				oneErr = l.submit(ctx, &records[i], journal.Encode(nil, &records[i]), wasThere, nil)
				did = oneErr == nil
			}
		}
		if did {
			isNew++
		}
		errs[i] = oneErr
	}
	return errs, isNew
}

func hasNoScript(cmds []*redis.Cmd) bool {
	for _, cmd := range cmds {
		if cmd != nil && redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
			return true
		}
	}
	return false
}

// counter follows the count of what this process settled that stands beside the data,
// raised by the same scripts: a count that is not above what Redis had acknowledged
// when it was asked is that of a Redis which has gone back in time.
type counter struct {
	mu        sync.Mutex
	now       count
	answers   [1024]int64 // the last counts that were answered with, by their last digits
	settledAt int64       // of the last record, as far as this process knows, in microseconds
}

type count struct {
	acknowledged int64
	epoch        int // how often Redis went back
}

// ask is called before Redis is asked for something that it counts.
func (c *counter) ask() count {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *counter) lastSettled() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settledAt
}

// seal takes note that nothing is settled any more at a time, or before.
func (c *counter) seal(at int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settledAt = max(c.settledAt, at)
}

// learn takes in the answer to something that Redis counts, and returns how many writes
// it has lost, at least; isOld: it may be of what it had before.
func (c *counter) learn(asked count, counted, settledAt int64) (lost int64, isOld bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settledAt = max(c.settledAt, settledAt)
	if asked.epoch != c.now.epoch {
		return 0, true
	}
	slot := &c.answers[counted%int64(len(c.answers))]
	isTwice := *slot == counted // by the one that it was, and by the one that it is
	*slot = counted
	switch {
	case isTwice:
		lost = 1
	case counted <= asked.acknowledged:
		lost = c.now.acknowledged - counted + 1
	default:
		c.now.acknowledged = max(c.now.acknowledged, counted)
	}
	c.useRedis(lost, counted)
	return lost, isTwice
}

// compare is learn, of an answer that says what was counted by then.
func (c *counter) compare(asked count, counted int64) (lost int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if asked.epoch == c.now.epoch && counted < asked.acknowledged {
		lost = c.now.acknowledged - counted
	}
	c.useRedis(lost, counted)
	return lost
}

// useRedis begins another epoch if something was lost. mu is held.
func (c *counter) useRedis(lost, counted int64) {
	if lost > 0 {
		c.now = count{counted, c.now.epoch + 1}
		clear(c.answers[:])
	}
}
