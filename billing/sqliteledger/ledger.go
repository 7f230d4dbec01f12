// Package sqliteledger is a billing.Ledger for one process: an SQLite database
// in a directory of its own, with a journal in front.
//
// Settle appends to the journal and adjusts the balance in memory; a moment
// later the records go to the database together. Measured on 2 cores, without
// syncing: committing each record to the database before Settle returns costs
// 85 µs of CPU a record and 60 µs of waiting for a lone caller, 42 µs and 340 µs
// for 16 callers who share commits, and now and then all wait for a checkpoint.
// With the journal it is 18 to 29 µs of CPU, all in, and 5 to 8 µs of waiting.
package sqliteledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
)

// Ledger is a billing.Ledger. Make one with Open.
type Ledger struct {
	dir  string
	log  *slog.Logger
	sync bool

	lock   *conn
	reader *sql.DB

	// writing is held by who uses writer.
	writing sync.Mutex
	writer  *writer

	// usersMu guards the map.
	usersMu sync.RWMutex
	users   map[string]*user

	// mu guards what a Settle changes, in this order on its way: the journal,
	// the balances, and what is not in the database yet.
	mu      sync.Mutex
	closed  atomic.Bool
	lookups *lookups
	journal *journal.Journal
	pending map[string]journal.Position // by record id
	queue   []billing.Record            // those of journal.Current

	// flushing is held by who moves records from the journal to the database;
	// taken are those of journal.Other. Locked before writing and mu.
	flushing sync.Mutex
	taken    []billing.Record

	begun, gathered, quit chan struct{}
	loops                 sync.WaitGroup
}

// user is a balance as of the last Settle.
type user struct {
	amount    atomic.Int64
	unlimited atomic.Bool
}

func newUser(amount billing.USD, unlimited bool) *user {
	u := new(user)
	u.amount.Store(int64(amount))
	u.unlimited.Store(unlimited)
	return u
}

func (l *Ledger) start() {
	l.begun = make(chan struct{}, 1)
	l.gathered = make(chan struct{}, 1)
	l.quit = make(chan struct{})
	l.loops.Go(l.flushLoop)
}

// Balance implements billing.Ledger.
func (l *Ledger) Balance(_ context.Context, name string) (billing.Balance, error) {
	if l.closed.Load() {
		return billing.Balance{}, billing.ErrClosed
	}
	u := l.user(name)
	if u == nil {
		return billing.Balance{}, fmt.Errorf("balance of %q: %w", name, billing.ErrUnknownUser)
	}
	return billing.Balance{Amount: billing.USD(u.amount.Load()), Unlimited: u.unlimited.Load()}, nil
}

func (l *Ledger) user(name string) *user {
	l.usersMu.RLock()
	defer l.usersMu.RUnlock()
	return l.users[name]
}

// Declare implements billing.Ledger.
func (l *Ledger) Declare(ctx context.Context, users []billing.User) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closed.Load() {
		return billing.ErrClosed
	}
	credited := make([]billing.USD, len(users))
	err := l.writer.transaction(func() (err error) {
		for i, u := range users {
			if credited[i], err = l.declare(ctx, u); err != nil {
				return fmt.Errorf("user %q: %w", u.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("declaring users to the ledger in %s: %w", l.dir, err)
	}
	l.usersMu.Lock()
	defer l.usersMu.Unlock()
	for i, u := range users {
		if l.users[u.Name] == nil {
			l.users[u.Name] = new(user)
		}
		l.users[u.Name].amount.Add(int64(credited[i]))
		l.users[u.Name].unlimited.Store(u.Unlimited)
	}
	return nil
}

// declare writes one user and gives what they are credited.
func (l *Ledger) declare(ctx context.Context, u billing.User) (billing.USD, error) {
	switch {
	case u.Name == "":
		return 0, errors.New("it has no name")
	case u.Balance > largestAmount/2 || u.Balance < -largestAmount/2:
		return 0, fmt.Errorf("an opening balance of %s is out of range, the limit is %s", u.Balance, largestAmount/2)
	}
	_, err := l.writer.exec(ctx, `INSERT INTO users (name, balance, unlimited) VALUES (?1, 0, ?2)
		ON CONFLICT (name) DO UPDATE SET unlimited = ?2`, u.Name, integer(u.Unlimited))
	if err != nil || u.Unlimited {
		return 0, err
	}
	row, err := l.writer.exec(ctx, `INSERT INTO credits (user, kind, id, time, amount) VALUES (?, 'opening', '', ?, ?)
		ON CONFLICT DO NOTHING RETURNING amount`, u.Name, time.Now().UnixNano(), int64(u.Balance))
	if err != nil || row[0] == nil {
		return 0, err
	}
	_, err = l.writer.exec(ctx, "UPDATE users SET balance = balance + ? WHERE name = ?", int64(u.Balance), u.Name)
	return u.Balance, err
}

// Close implements billing.Ledger. What the database refuses stays in the
// journal for the next Open, and is an error.
func (l *Ledger) Close() error {
	l.mu.Lock()
	wasClosed := l.closed.Swap(true)
	l.mu.Unlock()
	if wasClosed {
		return billing.ErrClosed
	}
	close(l.quit)
	l.loops.Wait()
	err := l.flush()

	l.flushing.Lock() // for who came before closed was set
	defer l.flushing.Unlock()
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := errors.Join(err, l.closeFiles()); err != nil {
		return fmt.Errorf("closing the ledger in %s: %w", l.dir, err)
	}
	return nil
}

// closeFiles closes what is open; the last connection to the database empties
// its WAL, and the directory is let go after that.
func (l *Ledger) closeFiles() error {
	var errs []error
	if l.reader != nil {
		errs = append(errs, l.reader.Close())
	}
	if l.lookups != nil {
		errs = append(errs, l.lookups.Close())
	}
	if l.writer != nil {
		errs = append(errs, l.writer.Close())
	}
	if l.journal != nil {
		errs = append(errs, l.journal.Close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}

var _ billing.Ledger = (*Ledger)(nil)
