// Package sqliteledger is a billing.Ledger for one process: an SQLite database
// in a directory of its own.
//
// Every record is a row in the database before Settle returns; there is no
// journal in front. Measured on 2 cores: appending to a journal takes 1.3 µs,
// a lone commit here 70 µs and, gathered with others, 18 µs a record. That is
// within what a request may cost, and a journal would be a second thing to
// sync, replay and truncate, for records that then still go into SQLite.
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
)

// Ledger is a billing.Ledger. Make one with Open.
type Ledger struct {
	dir string
	log *slog.Logger

	lock        *conn
	checkpoints *conn
	reader      *sql.DB

	// writing is held by who uses writer, and by nobody for long.
	writing sync.Mutex
	writer  *writer

	// mu guards the map; users are changed by who holds writing.
	mu    sync.RWMutex
	users map[string]*user

	// gate is held for reading while something is put in queue, so that Close
	// can close queue once nobody does.
	gate   sync.RWMutex
	closed atomic.Bool
	queue  chan *job

	checkpointDue chan struct{}
	loops         sync.WaitGroup
}

// user is what the database says of a user, kept for Balance.
type user struct {
	amount    atomic.Int64
	unlimited atomic.Bool

	// next is the amount within the batch that is being written, where pending;
	// dirty where the database must still be told.
	next           billing.USD
	pending, dirty bool
}

func newUser(amount billing.USD, unlimited bool) *user {
	u := new(user)
	u.amount.Store(int64(amount))
	u.unlimited.Store(unlimited)
	return u
}

func (l *Ledger) start() {
	l.queue = make(chan *job, maxBatch)
	l.checkpointDue = make(chan struct{}, 1)
	l.loops.Go(l.writeLoop)
	l.loops.Go(l.checkpointLoop)
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
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.users[name]
}

// Declare implements billing.Ledger.
func (l *Ledger) Declare(ctx context.Context, users []billing.User) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closed.Load() {
		return billing.ErrClosed
	}
	declared := make(map[string]billing.Balance, len(users))
	err := l.writer.transaction(func() error {
		for _, u := range users {
			balance, err := l.declare(ctx, u)
			if err != nil {
				return fmt.Errorf("user %q: %w", u.Name, err)
			}
			declared[u.Name] = balance
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("declaring users to the ledger in %s: %w", l.dir, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, balance := range declared {
		if u := l.users[name]; u != nil {
			u.amount.Store(int64(balance.Amount))
			u.unlimited.Store(balance.Unlimited)
		} else {
			l.users[name] = newUser(balance.Amount, balance.Unlimited)
		}
	}
	return nil
}

// declare writes one user and gives their balance from then on.
func (l *Ledger) declare(ctx context.Context, u billing.User) (billing.Balance, error) {
	if u.Name == "" {
		return billing.Balance{}, errors.New("a user needs a name")
	}
	row, err := l.writer.exec(ctx, `INSERT INTO users (name, balance, unlimited) VALUES (?1, 0, ?2)
		ON CONFLICT (name) DO UPDATE SET unlimited = ?2 RETURNING balance`, u.Name, integer(u.Unlimited))
	if err != nil {
		return billing.Balance{}, err
	}
	balance := billing.Balance{Amount: billing.USD(row[0].(int64)), Unlimited: u.Unlimited}
	if u.Unlimited {
		return balance, nil
	}
	row, err = l.writer.exec(ctx, `INSERT INTO credits (user, kind, id, time, amount) VALUES (?, 'opening', '', ?, ?)
		ON CONFLICT DO NOTHING RETURNING amount`, u.Name, time.Now().UnixNano(), int64(u.Balance))
	if err != nil || row[0] == nil {
		return balance, err
	}
	credited := balance.Amount.Plus(u.Balance)
	if credited-u.Balance != balance.Amount {
		return balance, fmt.Errorf("balance %s and opening balance %s are more than a ledger can hold", balance.Amount, u.Balance)
	}
	balance.Amount = credited
	_, err = l.writer.exec(ctx, "UPDATE users SET balance = ? WHERE name = ?", int64(balance.Amount), u.Name)
	return balance, err
}

// Close implements billing.Ledger.
func (l *Ledger) Close() error {
	l.gate.Lock()
	wasClosed := l.closed.Swap(true)
	if !wasClosed {
		close(l.queue)
	}
	l.gate.Unlock()
	if wasClosed {
		return billing.ErrClosed
	}
	l.loops.Wait()
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.closeConns(); err != nil {
		return fmt.Errorf("closing the ledger in %s: %w", l.dir, err)
	}
	return nil
}

// closeConns closes what is open; the last connection to the database empties
// its WAL, and the directory is let go after that.
func (l *Ledger) closeConns() error {
	var errs []error
	if l.reader != nil {
		errs = append(errs, l.reader.Close())
	}
	if l.checkpoints != nil {
		errs = append(errs, l.checkpoints.Close())
	}
	if l.writer != nil {
		errs = append(errs, l.writer.Close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}

var _ billing.Ledger = (*Ledger)(nil)
