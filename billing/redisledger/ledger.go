// Package redisledger is a billing.Ledger for any number of processes: balances
// and records in Redis 6.2 or later, Valkey, or a Cluster of either, and a
// directory on disk for the records that Redis doesn't take.
//
// Settle is one script, and one round trip. What Redis does not take goes to the
// spool, a journal on disk, and from there to Redis when it answers again; a
// record is told by its ID and the day of its Time, so that one which was kept
// though its answer got lost is not charged twice. As much as Redis is told to
// write to disk (appendonly, appendfsync) survives its own end; it must not be told
// to evict keys (maxmemory-policy noeviction). A record takes about 500 bytes of
// its memory.
//
// The keys, all in one slot of a Cluster:
//
//	{namespace}:user:<name>       hash: balance and opening, in nano-dollars; unlimited, 1 or 0; version, counts changes
//	{namespace}:days              set of the days, UTC, that have records
//	{namespace}:records:<day>     hash of the day's records by ID, as package journal encodes them
//	{namespace}:index:<day>       sorted set, all of score 0: the record's time, 8 bytes, and its ID
//
// Σ charged = opening + credits − balance holds in Redis at any time.
package redisledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
)

const (
	// retryAfter is how long after a failure Redis is asked again whether it
	// takes what waits.
	retryAfter = 250 * time.Millisecond
	// adoptEvery is how often the spool is searched for what processes left that
	// have ended.
	adoptEvery = time.Minute
	// closeTimeout bounds what Close does about records that wait.
	closeTimeout = 5 * time.Second
)

// Options of a Ledger. The zero value is usable.
type Options struct {
	// Namespace begins every key, in braces. It must not begin with a brace
	// itself. Default: "sub2api".
	Namespace string
	// Spool is the directory for records that Redis doesn't take. It belongs to
	// one store, and may be shared by several processes of it on this machine. It
	// is made, with mode 0700, where it doesn't exist. "" = none: Settle then
	// fails while Redis does.
	Spool string
	// Sync has records that go to the spool synced to disk before Settle
	// returns, so that they survive a power failure.
	Sync bool
	// Timeout bounds a round trip, as far as the client heeds contexts: its
	// ContextTimeoutEnabled should be set. Default: 2 s.
	Timeout time.Duration
	// Logger is told what goes wrong in the background. Default: nobody.
	Logger *slog.Logger
}

// Ledger is a billing.Ledger. Make one with New.
//
// While Redis can't be reached, Balance answers from what this process knew last,
// less what has been settled since, and Settle doesn't try.
type Ledger struct {
	client  redis.UniversalClient
	prefix  string
	timeout time.Duration
	log     *slog.Logger
	cache   *cache
	spool   *spool // nil for none

	// settling is held for reading by each Settle; Close waits for them.
	settling sync.RWMutex
	closed   atomic.Bool

	// down: Redis did not answer a moment ago. complained: the log says so, or
	// that it refuses records.
	down, complained atomic.Bool

	wake   chan struct{}
	ctx    context.Context // ends the loop
	cancel context.CancelFunc
	loops  sync.WaitGroup
}

// New makes a ledger over client, which stays the caller's to close, after the
// ledger. It asks nothing of Redis; in the background, it looks into the spool for
// records that an earlier process left.
func New(client redis.UniversalClient, options Options) *Ledger {
	if options.Namespace == "" {
		options.Namespace = "sub2api"
	}
	if options.Timeout == 0 {
		options.Timeout = 2 * time.Second
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Ledger{
		client: client, prefix: "{" + options.Namespace + "}:", timeout: options.Timeout,
		log: options.Logger, cache: newCache(), wake: make(chan struct{}, 1),
	}
	if options.Spool != "" {
		l.spool = newSpool(options, l.cache)
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.loops.Go(l.loop)
	return l
}

// Waiting is the number of records in this process's part of the spool, which
// Redis has yet to take. Those that it refused for good are not among them.
func (l *Ledger) Waiting() int { return l.cache.count() }

// Close implements billing.Ledger. What Redis doesn't take stays in the spool for
// the next process, and is an error.
func (l *Ledger) Close() error {
	l.settling.Lock()
	wasClosed := l.closed.Swap(true)
	l.settling.Unlock()
	if wasClosed {
		return billing.ErrClosed
	}
	l.cancel()
	l.loops.Wait()
	if l.spool == nil {
		return nil
	}
	var err error
	if l.Waiting() > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if err = l.drain(ctx); err != nil {
			err = fmt.Errorf("%d records wait in the spool %s for the next start: %w", l.Waiting(), l.spool.dir, err)
		}
	}
	if err := errors.Join(err, l.spool.close()); err != nil {
		return fmt.Errorf("closing the ledger: %w", err)
	}
	return nil
}

// notServing begin the errors that a server gives to whatever it is asked.
var notServing = []string{
	"LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "NOAUTH", "WRONGPASS", "max number of clients reached",
}

// note takes note of what came of asking Redis under ctx, and returns it.
func (l *Ledger) note(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, context.Canceled) { // the caller's doing
		return err
	}
	var reply redis.Error
	isOf := func(prefix string) bool { return redis.HasErrorPrefix(err, prefix) }
	if errors.As(err, &reply) && !slices.ContainsFunc(notServing, isOf) {
		return err
	}
	if !l.down.Swap(true) {
		l.complain(err)
		l.rouse()
	}
	return err
}

// complain logs the first error of an outage.
func (l *Ledger) complain(err error) {
	if !l.complained.Swap(true) {
		l.log.Error("Redis fails the ledger; until it is back, balances are as last known, and records wait in the spool, if there is one",
			"error", err)
	}
}

// rouse has the loop look whether Redis is back.
func (l *Ledger) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// loop brings the spool's records to Redis, and finds out when it is back, until
// Close.
func (l *Ledger) loop() {
	adopt := time.NewTicker(adoptEvery)
	defer adopt.Stop()
	l.adopt()
	for {
		for !l.recovered(l.ctx) {
			select {
			case <-time.After(retryAfter):
			case <-l.ctx.Done():
				return
			}
		}
		select {
		case <-l.wake:
		case <-adopt.C:
			l.adopt()
		case <-l.ctx.Done():
			return
		}
	}
}

// adopt opens the spool, and what other processes left in it.
func (l *Ledger) adopt() {
	if l.spool == nil {
		return
	}
	if err := l.spool.adopt(); err != nil && !errors.Is(err, billing.ErrClosed) {
		l.log.Error("the spool can't be used: while Redis fails too, no answer can be completed", "spool", l.spool.dir, "error", err)
	}
}

// recovered tells whether Redis answers and has all records.
func (l *Ledger) recovered(ctx context.Context) bool {
	if l.down.Load() {
		bounded, cancel := context.WithTimeout(ctx, l.timeout)
		err := l.client.Exists(bounded, l.daysKey()).Err()
		cancel()
		if err != nil {
			return false
		}
		l.down.Store(false)
	}
	if l.spool != nil {
		if err := l.drain(ctx); err != nil {
			if ctx.Err() == nil {
				l.complain(err)
			}
			return false
		}
	}
	if l.complained.Swap(false) {
		l.log.Info("Redis serves the ledger again, and has all records")
	}
	return true
}

var _ billing.Ledger = (*Ledger)(nil)
