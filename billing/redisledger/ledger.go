// Package redisledger is a billing.Ledger for any number of processes: balances
// and records in Redis 6.2 or later, Valkey, or a Cluster of either, and a
// directory on disk for the records that Redis doesn't take.
//
// Hold and Settle are one script each, and one round trip; Hold can travel in
// somebody else's (HoldAhead). What Redis does not take of Settle goes to the spool,
// a journal on disk, and from there to Redis when it answers again; a record is told
// by its ID and the day of its Time, so that one which was kept though its answer
// got lost is not charged twice. As much as Redis is told to write to disk
// (appendonly, appendfsync) survives its own end; it must not be told to evict keys
// (maxmemory-policy noeviction). A record takes about 500 bytes of its memory.
//
// What is set aside expires a minute after the process that did it was last heard
// of, by Redis's clock; a process says every 20 s that its holds go on, 500 with
// one command, and brings back those that Redis has lost. Once a second it asks
// whether users, keys or subscriptions were changed by another process (one GET).
//
// The keys, all in one slot of a Cluster. Money is in nano-dollars, and times are in
// nanoseconds since 1970, but for the bounds of windows, in seconds. A subscription
// is <length of the user's name>:<user>:<group>.
//
//	{namespace}:schema            version of all this: 2; data without it is older, and served as it is
//	{namespace}:user:<name>       hash: balance; opening, what was credited of the config; unlimited, 1 or 0; version, counts
//	                              changes of these; held; source, config or api; concurrency; disabled; removed; pruned, what
//	                              pruned records took
//	{namespace}:users             set of the names of users, but for those removed
//	{namespace}:credits:<name>    hash of the user's credits by ID: amount, time and note
//	{namespace}:key:<id>          hash: digest, user, prefix, groups and models as JSON, limits, expires, created, last_used;
//	                              held and windows
//	{namespace}:keys              hash: digest of a key to its ID
//	{namespace}:keys:<user>       set of the IDs of the user's keys
//	{namespace}:subscription:…    hash: subscribed, until; held and windows: daily, weekly, monthly, begin and end of each;
//	                              daily_used, weekly_used, monthly_used
//	{namespace}:subscriptions:<user>  set of the groups of which he has a subscription or windows
//	{namespace}:holds:user:… holds:key:… holds:subscription:…
//	                              sorted set of what held is the sum of: amount, record ID and a number, by when it expires, in milliseconds
//	{namespace}:changes           counts changes of users, keys and subscriptions
//	{namespace}:changes:last      list of the last 1,000 of them
//	{namespace}:days              set of the days, UTC, that have records
//	{namespace}:records:<day>     hash of the day's records by ID, as package journal encodes them
//	{namespace}:index:<day>       sorted set, all of score 0: the record's time, 8 bytes, and its ID
//
// Σ charged = opening + credits − balance holds in Redis at any time, where charged
// are the records that the balance paid, and pruned.
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

// closeTimeout bounds what Close does about holds, and records that wait.
const closeTimeout = 5 * time.Second

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
	// Location says where the days begin, by which windows are counted. Processes
	// of one store have the same. Default: UTC.
	Location *time.Location
	// Logger is told what goes wrong in the background. Default: nobody.
	Logger *slog.Logger
}

// Ledger is a billing.Ledger. Make one with New.
//
// While Redis can't be reached, Hold, Balance, Subscription and Login answer from
// what this process knew last, less what has been settled since, and Settle doesn't
// try.
type Ledger struct {
	client  redis.UniversalClient
	prefix  string
	timeout time.Duration
	log     *slog.Logger
	cache   *cache
	holds   *holds
	logins  *logins
	spool   *spool // nil for none

	// settling is held for reading by each Settle; Close waits for them.
	settling sync.RWMutex
	closed   atomic.Bool

	// down: Redis did not answer a moment ago. complained: the log says so, or
	// that it refuses records.
	down, complained atomic.Bool
	// upSince is when it was last found to answer again, in nanoseconds since 1970.
	upSince atomic.Int64
	// renewNow: Redis is to hear of all holds, some of which it may not know.
	renewNow atomic.Bool

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
	if options.Location == nil {
		options.Location = time.UTC
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Ledger{
		client: client, prefix: "{" + options.Namespace + "}:", timeout: options.Timeout,
		log: options.Logger, cache: newCache(options.Location), holds: newHolds(), logins: newLogins(), wake: make(chan struct{}, 1),
	}
	if options.Spool != "" {
		l.spool = newSpool(options, l.cache)
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.loops.Go(l.loop)
	l.loops.Go(l.tend)
	return l
}

// Waiting is the number of records in this process's part of the spool, which
// Redis has yet to take. Those that it refused for good are not among them.
func (l *Ledger) Waiting() int { return l.cache.waitingRecords() }

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
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	unsettled := slices.DeleteFunc(l.holds.all(), func(h hold) bool { return h.settled })
	_ = l.endHolds(ctx, append(unsettled, l.holds.debts()...)) // or they expire
	if l.spool == nil {
		return nil
	}
	var err error
	if l.Waiting() > 0 {
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
	switch {
	case errors.As(err, &reply) && !slices.ContainsFunc(notServing, isOf):
		return err
	case isTimeout(err) && time.Since(time.Unix(0, l.upSince.Load())) < l.timeout: // asked before it was found to answer
		return err
	}
	if !l.down.Swap(true) {
		l.complain(err)
		l.rouse()
	}
	return err
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
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

var _ billing.Ledger = (*Ledger)(nil)
