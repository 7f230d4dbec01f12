// Package redisledger is a billing.Ledger for any number of processes: balances
// and records in Redis 6.2 or later, Valkey, or a Cluster of either, and a
// directory on disk, the spool.
//
// Hold and Settle are one script each, and one round trip; Hold can travel in
// somebody else's (HoldIn), and others can travel in Settle's. A record goes to the
// spool first, a journal on disk, and then to Redis. It stays in the spool until Redis
// has had it for a minute: what Redis acknowledges it may still lose, by a failover or
// a restart. A count of what each process settled stands beside the data, raised by the
// same scripts; when it is lower than it was, Redis has gone back in time, and gets the
// last minute's records and credits again. A record is told by its ID and the day of
// its Time, so that one which was kept is not charged twice. As much as Redis is told
// to write to disk (appendonly, appendfsync) survives its own end; it must not be told
// to evict keys (maxmemory-policy noeviction). A record takes about 600 bytes of its
// memory.
//
// What is set aside expires a minute after the process that did it was last heard
// of, by Redis's clock; a process says every 20 s that its holds go on, 500 with
// one command, and brings back those that Redis has lost. Once a second it asks
// whether users, keys or subscriptions were changed by another process.
//
// Windows of spending go by Redis's clock: a record counts as long before now as its
// request came, by the clock of the process.
//
// The keys, all in one slot of a Cluster. Money is in nano-dollars, and times are in
// nanoseconds since 1970, but for the bounds of windows, in seconds. A subscription
// is <length of the user's name>:<user>:<group>.
//
//	{namespace}:schema            version of all this: 2; data without it is older, and served as it is
//	{namespace}:user:<name>       hash: balance; opening, what was credited of the config; version, counts changes; held; source,
//	                              config or api; concurrency; disabled; removed; number, 1 if absent, one more for each who
//	                              was removed; pruned, what pruned records took; forgiven, what records charged of those who were
//	                              removed by then; opened, the openings of those
//	{namespace}:users             set of the names of users, but for those removed
//	{namespace}:credits:<name>    hash of the user's credits by ID: amount, time and note;
//	                              credits_of:<number>:<name> for those who have a name after another
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
//	{namespace}:records:<day>     hash of the day's records by ID: as package journal encodes them, then when they were
//	                              settled, in microseconds, 16 digits
//	{namespace}:index:<day>       sorted set, all of score 0: the record's time, 8 bytes, and its ID
//	{namespace}:settled:day:<n>   sorted set of the same, by when they were settled, of a day, counted from 1970
//	{namespace}:settled:last      when the last one was
//	{namespace}:settled:<process> how much a process has settled; gone a day after it
//	{namespace}:pruned            the end of the day that was deleted last, when, and the last end of all; in seconds
//
// Σ charged = opening + opened + credits + forgiven − balance holds in Redis at any
// time, where charged are the records that the balance paid, and pruned.
package redisledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

const (
	// closeTimeout bounds what Close does about holds, and records that wait.
	closeTimeout = 5 * time.Second
	// drainRetry is how long after a failure it is tried again to bring Redis what waits.
	drainRetry = 250 * time.Millisecond
	// tickEvery is how often Redis is asked what has changed.
	tickEvery = time.Second
	// rotateEvery is how often the spool forgets what Redis has, and is searched for
	// what processes left that have ended.
	rotateEvery = 10 * time.Second
	// countTTL is how long Redis knows what a process has settled that has ended.
	countTTL = 24 * time.Hour
)

// Options of a Ledger.
type Options struct {
	// Namespace begins every key, in braces. It must not begin with a brace
	// itself. Default: "sub2api".
	Namespace string
	// Spool is the directory for records that Redis may not have. It belongs to one
	// store, and may be shared by several processes of it on this machine. It is made,
	// with mode 0700, where it doesn't exist. Required.
	Spool string
	// Sync has records that Redis did not take synced to disk before Settle returns, so
	// that they survive a power failure.
	Sync bool
	// Location says where the days begin, by which windows are counted. Processes
	// of one store have the same. Default: UTC.
	Location *time.Location
	// Now is the clock of this process. Default: time.Now.
	Now func() time.Time
	// Logger is told what goes wrong in the background. Default: nobody.
	Logger *slog.Logger
}

// Ledger is a billing.Ledger. Make one with New.
//
// While Redis is down, as the link has it, Hold, Balance, Subscription and Login answer
// from what this process knew last, less what has been settled since, and Settle
// doesn't try.
type Ledger struct {
	link     *redislink.Link
	prefix   string
	name     string // of this process
	location *time.Location
	clock    func() time.Time
	log      *slog.Logger
	snapshot *snapshot
	holds    *holds
	logins   *logins
	spool    *spool
	count    *counter
	bounds   bounds
	declared declared

	// settling is held for reading by each Settle; Close waits for them.
	settling sync.RWMutex
	closed   atomic.Bool
	// retryRefused: Redis is to be asked once more for the records that it refused.
	retryRefused atomic.Bool

	wake   chan struct{}   // holds one: drain
	ctx    context.Context // ends the loops
	cancel context.CancelFunc
	loops  sync.WaitGroup
}

// New makes a ledger over a link, which stays the caller's to close, after the ledger.
// It asks nothing of Redis before it is used, but for records that an earlier process
// left in the spool.
func New(link *redislink.Link, options Options) *Ledger {
	if options.Namespace == "" {
		options.Namespace = "sub2api"
	}
	if options.Location == nil {
		options.Location = time.UTC
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Ledger{
		link: link, prefix: "{" + options.Namespace + "}:", name: uuid.NewString(), location: options.Location, clock: options.Now, log: options.Logger,
		snapshot: newSnapshot(options.Location, options.Now), holds: newHolds(), logins: newLogins(), count: new(counter), declared: declared{telling: make(chan struct{}, 1)}, wake: make(chan struct{}, 1),
	}
	l.spool = newSpool(options, l.snapshot)
	l.retryRefused.Store(true)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	link.Join(l)
	l.loops.Go(l.drainLoop)
	l.loops.Go(l.maintain)
	return l
}

// Waiting is the number of records that Redis may not have. Those that it refused for
// good are not among them.
func (l *Ledger) Waiting() int { return l.snapshot.waiting() }

// Close implements billing.Ledger. What Redis doesn't take stays in the spool for
// the next process, and is an error.
func (l *Ledger) Close() error {
	l.settling.Lock()
	wasClosed := l.closed.Swap(true)
	l.settling.Unlock()
	if wasClosed {
		return billing.ErrClosed
	}
	l.link.Leave(l)
	l.cancel()
	l.loops.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var err error
	if l.link.Down() == nil {
		_, _ = l.tell(ctx, endHolds, append(l.holds.in(kept), l.holds.in(inDoubt)...)) // or they expire
		err = l.drain(ctx)
	}
	if n := l.Waiting(); n > 0 {
		err = fmt.Errorf("%d records wait in the spool %s for the next start: %w", n, l.spool.dir, errors.Join(l.link.Down(), err))
	}
	if err := errors.Join(err, l.spool.close()); err != nil {
		return fmt.Errorf("closing the ledger: %w", err)
	}
	return nil
}

// Lost implements redislink.Member.
func (l *Ledger) Lost() {}

// Regain implements redislink.Member: Redis hears of the config's users, and of all
// that is set aside here. Then the spool is drained.
func (l *Ledger) Regain(ctx context.Context) error {
	l.doubt()
	if err := l.declareAll(ctx); err != nil {
		return err
	}
	if err := l.revive(ctx, l.holds.in(inDoubt)); err != nil {
		return fmt.Errorf("telling Redis what is set aside: %w", err)
	}
	l.wakeDrain()
	return l.heartbeat(ctx)
}

// doubt takes nothing for granted that Redis has said.
func (l *Ledger) doubt() {
	l.snapshot.doubt()
	l.holds.doubt()
}

// wentBack is called when Redis has lost writes that it had acknowledged.
func (l *Ledger) wentBack(lost int64) {
	l.log.Error("Redis has lost what it had acknowledged, as a failover or a restart can have it; it gets the records and credits of the last minute again",
		"lost", lost)
	l.doubt()
	l.spool.missAll()
	l.wakeDrain()
}

// wakeDrain has the spool drained.
func (l *Ledger) wakeDrain() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// drainLoop brings the spool's records to Redis until Close.
func (l *Ledger) drainLoop() {
	rotate := time.NewTicker(rotateEvery)
	defer rotate.Stop()
	l.wakeDrain() // for what an earlier process left
	for complaint := ""; ; {
		isDue := false
		select {
		case <-l.wake:
		case <-rotate.C:
			isDue = true
		case <-l.ctx.Done():
			return
		}
		err := l.spool.adopt()
		if err == nil && l.link.Down() == nil {
			err = l.drain(l.ctx)
		}
		if err == nil && isDue && l.link.Down() == nil {
			err = l.spool.rotate()
		}
		if l.ctx.Err() != nil {
			return
		}
		isDown := l.link.Down() != nil
		if err != nil || isDown {
			time.AfterFunc(drainRetry, l.wakeDrain)
		}
		if text := fmt.Sprint(err); err != nil && !isDown {
			if text != complaint && !isOutage(err) {
				l.log.Error("records of the spool could not be brought to Redis; they are kept, and it is tried again", "spool", l.spool.dir, "error", err)
			}
			complaint = text
		} else if err == nil {
			complaint = ""
		}
	}
}

// maintain takes account of what other processes change, and keeps money set aside for
// as long as it is needed, until Close.
func (l *Ledger) maintain() {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	renewed, complaint := time.Now(), ""
	for {
		select {
		case <-ticker.C:
		case <-l.ctx.Done():
			return
		}
		if l.link.Down() != nil {
			continue
		}
		err := l.heartbeat(l.ctx)
		if time.Since(renewed) >= renewEvery {
			if err = errors.Join(err, l.renew(l.ctx)); err == nil {
				renewed = time.Now()
			}
		}
		err = errors.Join(err, l.revive(l.ctx, l.holds.in(inDoubt)))
		text := fmt.Sprint(err)
		if err != nil && text != complaint && !isOutage(err) && l.ctx.Err() == nil {
			l.log.Warn("Redis does not tell what other processes have changed, or does not keep money set aside", "error", err)
		}
		complaint = text
	}
}

// heartbeat asks what has changed, and finds out whether Redis has lost something.
func (l *Ledger) heartbeat(ctx context.Context) error {
	asked := l.count.ask()
	answer, err := l.link.Run(ctx, heartbeatScript, []string{l.changesKey(), l.countKey()}, countTTL.Milliseconds())
	if err != nil {
		return err
	}
	a := newReply(answer, 3)
	changes, counted := a.number(0), a.number(1)
	if a.err != nil {
		return a.err
	}
	l.snapshot.learnTime(a.micros(2))
	if lost := l.count.compare(asked, counted); lost > 0 {
		l.wentBack(lost)
	}
	return l.readChanges(ctx, changes)
}

var _ billing.Ledger = (*Ledger)(nil)
