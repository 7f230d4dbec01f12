package redisledger

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// Credits, and users that were added with what they begin with, are in the spool for a
// minute as records are, in the form of records: entries, told by what Billing says.
const (
	entryOfCredit = "credit"
	entryOfUser   = "user"
)

// isSettled reports whether a record of the spool is one, and no entry.
func isSettled(r *billing.Record) bool { return r.Billing != entryOfCredit && r.Billing != entryOfUser }

// creditEntry is a credit as the spool has it: its ID behind a letter, since that may
// be empty, and the note as the session.
func creditEntry(user string, c billing.Credit) *billing.Record {
	return &billing.Record{ID: "c" + c.ID, Time: c.Time, User: user, Billing: entryOfCredit, Charged: c.Amount, Session: c.Note}
}

// userEntry is a user that was added at a time, with his concurrency as the attempts.
func userEntry(u billing.User, at time.Time) *billing.Record {
	return &billing.Record{ID: "u" + u.Name, Time: at, User: u.Name, Billing: entryOfUser, Charged: u.Balance, Attempts: u.Concurrency}
}

// keepEntry keeps what Redis has acknowledged.
func (l *Ledger) keepEntry(e *billing.Record) {
	if _, err := l.spool.keep(e); err != nil && !errors.Is(err, billing.ErrClosed) {
		l.log.Warn("what Redis has taken has no second copy, which a failover in this minute may need", "user", e.User, "billing", e.Billing, "error", err)
	}
}

// changeAgain tells Redis of an entry again. It touches nobody who has the name by now.
func (l *Ledger) changeAgain(ctx context.Context, e *billing.Record) (isNew bool, err error) {
	if e.Billing == entryOfUser {
		isNew, err = l.addUser(ctx, e)
	} else {
		_, isNew, err = l.credit(ctx, e)
	}
	if errors.Is(err, billing.ErrUserExists) || errors.Is(err, billing.ErrUnknownUser) {
		err = nil
	}
	return isNew, err
}

// addUser adds a user; the entry's number, if it has one, must be his. It learns it.
func (l *Ledger) addUser(ctx context.Context, e *billing.Record) (added bool, err error) {
	answer, err := l.link.Run(ctx, addUserScript, []string{l.prefix}, e.User, int64(e.Charged), e.Attempts, formatTime(e.Time), e.UserNumber)
	if err != nil {
		return false, err
	}
	a := newReply(answer, 2)
	number := a.number(1)
	if err := errors.Join(a.err, refusals[a.list[0]]); err != nil {
		return false, err
	}
	e.UserNumber = number
	l.logins.forgetUser(e.User)
	return true, nil
}

// credit credits a user; the entry's number, if it has one, must be his. It learns it.
func (l *Ledger) credit(ctx context.Context, e *billing.Record) (balance billing.Balance, credited bool, err error) {
	asked := l.count.ask()
	answer, err := l.link.Run(ctx, creditScript, []string{l.prefix},
		e.User, strings.TrimPrefix(e.ID, "c"), int64(e.Charged), formatTime(e.Time), e.Session, l.name, e.UserNumber)
	if err != nil {
		return balance, false, err
	}
	a := newReply(answer, 3)
	now, known, err := parseUser(a.list[1])
	counted := a.number(2)
	if err := errors.Join(a.err, err); err != nil {
		return balance, false, err
	}
	if lost, _ := l.count.learn(asked, counted, 0); lost > 0 {
		l.wentBack(lost)
	}
	refusal := refusals[a.list[0]]
	if refusal == nil && !known {
		refusal = billing.ErrUnknownUser
	}
	if refusal != nil {
		return balance, false, refusal
	}
	e.UserNumber = now.number
	l.logins.forgetUser(e.User)
	return l.snapshot.learnUser(e.User, now), a.list[0] == "credited", nil
}
