package redisledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

var (
	errDown  = errors.New("no answer of Redis a moment ago")
	errSpent = errors.New("the balance is at the end of what a ledger can hold")
)

// Settle implements billing.Ledger. The context's riders (package redispipe)
// travel along. When Redis doesn't take the record, or is known not to
// answer, it goes to the spool, and that is no error.
func (l *Ledger) Settle(ctx context.Context, record *billing.Record, _ roundtrip.Batch) error {
	err := ctx.Err()
	if err == nil {
		err = l.settle(ctx, record)
	}
	if err != nil {
		return fmt.Errorf("settling record %q: %w", record.ID, err)
	}
	return nil
}

func (l *Ledger) settle(ctx context.Context, r *billing.Record) error {
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
	err := errDown
	if !l.down.Load() {
		err = l.submit(ctx, r)
	}
	if err == nil || isFinal(err) {
		return err
	}
	if l.spool == nil {
		return fmt.Errorf("%w: not taken by Redis: %w, and there is no spool", billing.ErrUnwritable, err)
	}
	if spoolErr := l.spool.keep(r, err == errDown); spoolErr != nil {
		return fmt.Errorf("%w: not taken by Redis: %w; nor by the spool %s: %w", billing.ErrUnwritable, err, l.spool.dir, spoolErr)
	}
	l.holds.settle(r.ID)
	l.complain(err)
	l.rouse()
	return nil
}

// submit settles a record in Redis.
func (l *Ledger) submit(ctx context.Context, r *billing.Record) error {
	asked := l.cache.ask()
	keys, args := l.settleArguments(r)
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	reply, err := redispipe.Run(bounded, l.client, settleScript, keys, args...)
	if l.note(ctx, err) != nil {
		return err
	}
	return l.settled(r, asked, reply)
}

// settleArguments are settle.lua's.
func (l *Ledger) settleArguments(r *billing.Record) (keys []string, args []any) {
	day := day(r.Time)
	keys = []string{
		l.userKey(r.User), l.daysKey(), l.recordsKey(day), l.indexKey(day),
		l.key(keyPurse(r.KeyID)), l.key(subscriptionPurse(r.User, r.Group)), l.subscriptionsKey(r.User),
	}
	change := ""
	if r.Billing == billing.PaidFromBalance {
		change = strconv.FormatInt(-int64(r.Charged), 10)
	}
	args = []any{
		r.ID, journal.Encode(nil, r), stamp(r.Time) + r.ID, day, change, int64(r.Spent()), r.Time.Unix(), billing.UnixNano(r.Time),
	}
	for _, w := range billing.WindowsFrom(r.Time, l.cache.location) {
		args = append(args, formatBounds(w))
	}
	args = append(args, r.Group, digit(r.Billing == billing.PaidFromSubscription))
	if h := l.holds.find(r.ID); h != nil {
		args = append(args, h.member())
		for _, p := range h.purses {
			keys = append(keys, l.key(p), l.holdsKey(p))
		}
	}
	return keys, args
}

// settled takes in settle.lua's answer.
func (l *Ledger) settled(r *billing.Record, asked question, reply any) error {
	answer, _ := reply.([]any)
	if len(answer) != 2 {
		return fmt.Errorf("an unknown answer of Redis: %T %v", reply, reply)
	}
	switch answer[0] {
	case "stranger":
		return fmt.Errorf("charging %q: %w", r.User, billing.ErrUnknownUser)
	case "spent":
		return fmt.Errorf("charging %q %s: %w", r.User, r.Charged, errSpent)
	}
	defer l.holds.end(r.ID) // once the charge counts
	now, known, err := parseTold(answer[1])
	if err != nil || !known {
		return nil // somebody without a balance; or one who can't be told, but the record is kept
	}
	isNew := answer[0] == "kept"
	if isNew && r.Billing == billing.PaidFromBalance {
		now.Amount = now.Amount.Plus(-r.Charged)
		now.version++
	}
	l.cache.learnSettled(r, asked, now, isNew)
	return nil
}

// isFinal tells an error of a record that Redis will not take later either.
func isFinal(err error) bool {
	return errors.Is(err, billing.ErrUnknownUser) || errors.Is(err, errSpent)
}

// isRefusal tells an error that is about one record, or the keys that it goes to,
// and not about all.
func isRefusal(err error) bool {
	return isFinal(err) || strings.Contains(err.Error(), "WRONGTYPE") || strings.Contains(err.Error(), "not an integer")
}
